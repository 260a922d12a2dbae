//! The HTTP API on the control socket.
//!
//! ```text
//! GET  /v1/status   Status
//! GET  /v1/audit    Audit: every lcore walks its own shards
//! GET  /v1/config   the checked config
//! POST /v1/stop     {"stopping":true}
//! POST /v1/vms/{name}/{detach,attach,kill}   OwnerStatus; also for processes; 404 unknown, 409 not now
//! ```
//!
//! The socket lies in a directory of mode 0700: whoever can reach it may use it.

use std::future::IntoFuture;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::{Path as PathOf, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::oneshot;

use super::order::{Act, OrderError};
use super::status::{ApiError, Audit, OwnerStatus, Status};

/// How long answers under way may take once the switch stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Whoever can answer for the switch. The calls may block for as long as an lcore needs to answer.
pub trait Answers: Send + Sync + 'static {
    /// Everything at a glance.
    ///
    /// # Errors
    /// Why the lcores do not answer.
    fn status(&self) -> Result<Status, String>;
    /// The buffers, each counted anew.
    ///
    /// # Errors
    /// Why the lcores do not answer.
    fn audit(&self) -> Result<Audit, String>;
    /// The checked config.
    fn config(&self) -> serde_json::Value;
    /// Does something to a VM or process.
    ///
    /// # Errors
    /// Why it is not done.
    fn order(&self, act: Act, name: &str) -> Result<OwnerStatus, OrderError>;
    /// Begins to stop the switch.
    fn stop(&self);
}

/// The running API; it ends with [`Api::stop`].
#[derive(Debug)]
pub struct Api {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Api {
    /// Listens at `socket` in a thread of its own.
    ///
    /// # Errors
    /// If the socket cannot be bound or the thread not be started.
    pub fn start(socket: &Path, answers: Arc<dyn Answers>) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("netvm-api".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, answers, stopped));
        })?;
        Ok(Self { thread, stop })
    }

    /// Closes the socket and waits for the thread.
    pub fn stop(self) {
        if self.stop.send(()).is_err() {
            log::debug!("the API thread has ended by itself");
        }
        if self.thread.join().is_err() {
            log::error!("the API thread panicked; the switch itself is not concerned");
        }
    }
}

async fn serve(listener: UnixListener, answers: Arc<dyn Answers>, stopped: oneshot::Receiver<()>) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            return log::error!("control socket cannot be served: {error}; netvm status will not work");
        }
    };
    let (begun, has_begun) = oneshot::channel();
    let server = axum::serve(listener, routes(answers)).with_graceful_shutdown(async move {
        // Told to stop, or nobody is left who could tell: the same.
        _ = stopped.await;
        _ = begun.send(());
    });
    // The answer to "stop" still goes out; an idle client does not keep the switch from ending.
    tokio::select! {
        ended = server.into_future() => {
            if let Err(error) = ended {
                log::error!("control socket is not served any more: {error}; netvm status will not work");
            }
        }
        () = async {
            _ = has_begun.await;
            tokio::time::sleep(LAST_ANSWERS).await;
        } => {}
    }
}

/// What is answered at which path.
pub fn routes(answers: Arc<dyn Answers>) -> Router {
    Router::new()
        .route("/v1/status", get(|state| answer(state, |answers| answers.status())))
        .route("/v1/audit", get(|state| answer(state, |answers| answers.audit())))
        .route("/v1/config", get(|state| answer(state, |answers| Ok(answers.config()))))
        .route(
            "/v1/stop",
            post(|state| {
                answer(state, |answers| {
                    answers.stop();
                    Ok(serde_json::json!({ "stopping": true }))
                })
            }),
        )
        .route("/v1/vms/{name}/{act}", post(order))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, NO_PATH) })
        .with_state(answers)
}

const NO_PATH: &str = "no such path; /v1/status, /v1/audit, /v1/config, /v1/stop, /v1/vms/NAME/ACT with ACT one of \
                       detach, attach, kill";

async fn order(
    State(answers): State<Arc<dyn Answers>>,
    PathOf((name, act)): PathOf<(String, String)>,
) -> Response {
    let Some(act) = Act::named(&act) else { return refuse(StatusCode::NOT_FOUND, NO_PATH) };
    match tokio::task::spawn_blocking(move || answers.order(act, &name)).await {
        Ok(Ok(status)) => Json(status).into_response(),
        Ok(Err(error)) => {
            let code = match error {
                OrderError::Unknown { .. } => StatusCode::NOT_FOUND,
                OrderError::NotNow(_) => StatusCode::CONFLICT,
                OrderError::NoAnswer => StatusCode::SERVICE_UNAVAILABLE,
            };
            refuse(code, &error.to_string())
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Asks off the async thread: an lcore that is slow to answer delays nobody else.
async fn answer<T: Serialize + Send + 'static>(
    State(answers): State<Arc<dyn Answers>>,
    ask: impl FnOnce(&dyn Answers) -> Result<T, String> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || ask(&*answers)).await {
        Ok(Ok(told)) => Json(told).into_response(),
        Ok(Err(why)) => refuse(StatusCode::SERVICE_UNAVAILABLE, &why),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refuse(code: StatusCode, error: &str) -> Response {
    (code, Json(ApiError { error: error.to_owned() })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::{Client, ClientError};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Fixed {
        stopped: AtomicBool,
    }

    impl Answers for Fixed {
        fn status(&self) -> Result<Status, String> {
            Ok(Status { switch: "blue".to_owned(), ..Status::default() })
        }
        fn audit(&self) -> Result<Audit, String> {
            Err("the thread of lcore 0 has ended".to_owned())
        }
        fn config(&self) -> serde_json::Value {
            serde_json::json!({ "switch": { "name": "blue" } })
        }
        fn order(&self, act: Act, name: &str) -> Result<OwnerStatus, OrderError> {
            match act {
                Act::Detach => Ok(OwnerStatus { name: name.to_owned(), ..OwnerStatus::default() }),
                Act::Attach => Err(OrderError::NotNow("vm fw0 is not detached".to_owned())),
                Act::Kill => Err(OrderError::unknown(name, &["fw0"])),
            }
        }
        fn stop(&self) {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_client_gets_what_the_switch_says() {
        let socket = std::env::temp_dir().join(format!("netvm-api-{}.sock", std::process::id()));
        let fixed = Arc::new(Fixed::default());
        let api = Api::start(&socket, fixed.clone()).unwrap();
        let client = Client::at(socket.clone());
        assert_eq!(client.get::<Status>("/v1/status").unwrap().switch, "blue");
        let failed = client.get::<Audit>("/v1/audit").unwrap_err().to_string();
        assert_eq!(failed, "the switch refused: the thread of lcore 0 has ended");
        assert!(matches!(client.get::<Status>("/v1/nothing"), Err(ClientError::Refused(_))));
        assert_eq!(client.post::<OwnerStatus>("/v1/vms/fw0/detach").unwrap().name, "fw0");
        let failed = client.post::<OwnerStatus>("/v1/vms/fw0/attach").unwrap_err().to_string();
        assert_eq!(failed, "the switch refused: vm fw0 is not detached");
        let failed = client.post::<OwnerStatus>("/v1/vms/fw1/kill").unwrap_err().to_string();
        assert!(failed.ends_with("nearest: fw0"), "{failed}");
        assert!(client.post::<OwnerStatus>("/v1/vms/fw0/restart").is_err());
        client.post::<serde_json::Value>("/v1/stop").unwrap();
        assert!(fixed.stopped.load(Ordering::Relaxed));
        api.stop();
        // Which error, depends: a child that another test is just about to start may still have the socket open.
        client.get::<Status>("/v1/status").unwrap_err();
        std::fs::remove_file(&socket).unwrap();
    }
}
