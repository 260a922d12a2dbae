//! The HTTP API on the control socket.
//!
//! [`calls`] is the one list of what can be asked; routes and the OpenAPI document are made from it. Objects of the
//! config are read and written as the file says them, in JSON. A change of one is the running config with that
//! object edited: checked, compared and applied like a whole file, all of it or nothing.
//!
//! The socket lies in a directory of mode 0700: whoever can reach it may use it.

use std::future::IntoFuture;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path as PathOf, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::openapi;
use super::order::{Act, OrderError};
use super::request::{Applied, ChangeError, Options, RunningConfig, Wish};
use super::status::{ApiError, Audit, OwnerStatus, Status};

/// How long answers under way may take once the switch stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// Longest body of a request: a config with every table that it may have is shorter.
pub const BODY_BYTES_MAX: usize = 4 << 20;

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
    /// The config as a text, changes included.
    fn text(&self) -> RunningConfig;
    /// Changes the config.
    ///
    /// # Errors
    /// Why it is not changed.
    fn change(&self, wish: &Wish, options: Options) -> Result<Applied, ChangeError>;
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

/// One thing that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it is.
    pub what: What,
    /// Where, with names in braces.
    pub path: String,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Everything at a glance.
    Status,
    /// The buffers, each counted anew.
    Audit,
    /// The checked config.
    Config,
    /// The config as a text.
    Text,
    /// Another config.
    Apply,
    /// The document about all this.
    OpenApi,
    /// The end.
    Stop,
    /// What an operator does to a VM or process.
    Order,
    /// All objects of a kind.
    List(&'static str),
    /// One more.
    Add(&'static str),
    /// One of them.
    Show(&'static str),
    /// Another one in its place.
    Replace(&'static str),
    /// One less.
    Remove(&'static str),
}

/// The objects of a kind in a path: `chains`, `policies`, `processes`.
#[must_use]
pub fn plural(kind: &str) -> String {
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with('s') => format!("{kind}es"),
        None => format!("{kind}s"),
    }
}

/// Everything that can be asked.
#[must_use]
pub fn calls() -> Vec<Call> {
    let fixed = [
        (What::Status, "/v1/status"),
        (What::Audit, "/v1/audit"),
        (What::Config, "/v1/config"),
        (What::Text, "/v1/config/text"),
        (What::Apply, "/v1/config"),
        (What::OpenApi, "/v1/openapi.json"),
        (What::Stop, "/v1/stop"),
        (What::Order, "/v1/vms/{name}/{act}"),
    ];
    let mut calls: Vec<Call> =
        fixed.into_iter().map(|(what, path)| Call { what, path: path.to_owned() }).collect();
    for kind in security_domains::kinds() {
        let path = format!("/v1/{}", plural(kind));
        let key = if security_domains::has_names(kind) { "name" } else { "place" };
        for what in [What::List(kind), What::Add(kind)] {
            calls.push(Call { what, path: path.clone() });
        }
        for what in [What::Show(kind), What::Replace(kind), What::Remove(kind)] {
            calls.push(Call { what, path: format!("{path}/{{{key}}}") });
        }
    }
    calls
}

/// What is answered at which path.
pub fn routes(answers: Arc<dyn Answers>) -> Router {
    let add = |router: Router<_>, call: Call| router.route(&call.path, handler(call.what));
    calls()
        .into_iter()
        .fold(Router::new(), add)
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, NO_PATH) })
        .method_not_allowed_fallback(|| async { refuse(StatusCode::METHOD_NOT_ALLOWED, NO_METHOD) })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(answers)
}

const NO_PATH: &str = "no such path; /v1/openapi.json lists them: /v1/status, /v1/audit, /v1/config, /v1/stop, \
                       /v1/chains and other kinds, /v1/vms/NAME/ACT with ACT one of detach, attach, kill";
const NO_METHOD: &str = "no such method at this path; /v1/openapi.json lists them";

type Shared = Arc<dyn Answers>;

/// Who answers.
fn handler(what: What) -> MethodRouter<Shared> {
    match what {
        What::Status => get(|state| answer(state, |answers| answers.status())),
        What::Audit => get(|state| answer(state, |answers| answers.audit())),
        What::Config => get(|state| answer(state, |answers| Ok(answers.config()))),
        What::Text => get(|state| answer(state, |answers| Ok(answers.text()))),
        What::OpenApi => get(|state| answer(state, |_| Ok(openapi::document()))),
        What::Stop => post(|state| {
            answer(state, |answers| {
                answers.stop();
                Ok(serde_json::json!({ "stopping": true }))
            })
        }),
        What::Order => post(order),
        What::List(kind) => get(move |state| {
            answer(state, move |answers| Ok(security_domains::tables(&answers.text().text, kind)))
        }),
        What::Show(kind) => get(move |state, PathOf(name)| show(state, kind, name)),
        What::Apply => {
            put(|state, uri, body| async move { change(state, uri, read(body).map(Wish::Config)).await })
        }
        What::Add(kind) => post(move |state, uri, body| async move {
            change(state, uri, read(body).map(|object| Wish::Add { kind, object })).await
        }),
        What::Replace(kind) => put(move |state, PathOf(name), uri, body| async move {
            change(state, uri, read(body).map(|object| Wish::Replace { kind, name, object })).await
        }),
        What::Remove(kind) => delete(move |state, PathOf(name), uri| async move {
            change(state, uri, Ok(Wish::Remove { kind, name })).await
        }),
    }
}

/// A body of JSON; why it is none otherwise.
fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, (StatusCode, String)> {
    let body = body.map_err(|rejection| {
        let what = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => format!("the body is longer than {BODY_BYTES_MAX} bytes"),
            _ => "the body did not arrive".to_owned(),
        };
        (rejection.status(), what)
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("the body is not what it must be: {error}")))
}

/// Changes the config, off the async thread: it takes as long as packets on their way need.
async fn change(
    State(answers): State<Shared>,
    uri: Uri,
    wish: Result<Wish, (StatusCode, String)>,
) -> Response {
    let wish = match wish {
        Ok(wish) => wish,
        Err((code, why)) => return refuse(code, &format!("{why}; nothing was changed")),
    };
    let options = match Options::of_query(uri.query().unwrap_or_default()) {
        Ok(options) => options,
        Err(why) => return refuse_change(&ChangeError::Request(why)),
    };
    match tokio::task::spawn_blocking(move || answers.change(&wish, options)).await {
        Ok(Ok(applied)) => Json(applied).into_response(),
        Ok(Err(error)) => refuse_change(&error),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refuse_change(error: &ChangeError) -> Response {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, Json(error.answer())).into_response()
}

/// One object of the config, by its name or place.
async fn show(State(answers): State<Shared>, kind: &'static str, name: String) -> Response {
    // A change that is under way is waited for.
    let tables = move || security_domains::tables(&answers.text().text, kind);
    let objects = match tokio::task::spawn_blocking(tables).await {
        Ok(objects) => objects,
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let found = if security_domains::has_names(kind) {
        objects.iter().find(|object| object["name"] == name.as_str())
    } else {
        name.parse().ok().and_then(|place: usize| objects.get(place))
    };
    match found {
        Some(object) => Json(object).into_response(),
        None => {
            refuse(StatusCode::NOT_FOUND, &format!("no {kind} {:.40?}; {} lists them", name, plural(kind)))
        }
    }
}

async fn order(State(answers): State<Shared>, PathOf((name, act)): PathOf<(String, String)>) -> Response {
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
    (code, Json(ApiError { error: error.to_owned(), ..ApiError::default() })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::{Client, ClientError};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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
        fn text(&self) -> RunningConfig {
            let text = "[[chain]]\nname = \"up\"\n[[rule]]\nport = \"a\"\n".to_owned();
            RunningConfig { generation: 4, text, ..RunningConfig::default() }
        }
        fn change(&self, wish: &Wish, options: Options) -> Result<Applied, ChangeError> {
            if let Some(wanted) = options.generation {
                return Err(ChangeError::Generation { running: 4, wanted });
            }
            match wish {
                Wish::Remove { kind: "rule", name } if name == "0" => {
                    Ok(Applied { applied: !options.dry_run, generation: 5, ..Applied::default() })
                }
                wish => Err(ChangeError::Request(format!("{wish:?}"))),
            }
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

    /// Asks a switch of this test's own: whether it did it, and what it said.
    fn ask(method: &str, path: &str, body: Vec<u8>) -> (bool, serde_json::Value) {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("netvm-calls-{}-{serial}.sock", std::process::id()));
        let api = Api::start(&socket, Arc::new(Fixed::default())).unwrap();
        let (good, said) = Client::at(socket.clone()).ask(method, path, body).unwrap();
        api.stop();
        std::fs::remove_file(&socket).unwrap();
        (good, serde_json::from_slice(&said).unwrap())
    }

    #[test]
    fn objects_are_shown_as_the_text_says_them() {
        assert_eq!(ask("GET", "/v1/chains", vec![]), (true, serde_json::json!([{ "name": "up" }])));
        assert_eq!(ask("GET", "/v1/chains/up", vec![]), (true, serde_json::json!({ "name": "up" })));
        assert_eq!(ask("GET", "/v1/rules/0", vec![]), (true, serde_json::json!({ "port": "a" })));
        assert!(!ask("GET", "/v1/rules/1", vec![]).0);
        assert_eq!(ask("GET", "/v1/policies", vec![]), (true, serde_json::json!([])));
        assert_eq!(ask("GET", "/v1/config/text", vec![]).1["generation"], 4);
    }

    #[test]
    fn changes_are_handed_on_and_refusals_have_their_code() {
        let (good, applied) = ask("DELETE", "/v1/rules/0?dry_run=true", vec![]);
        assert_eq!((good, &applied["applied"], &applied["generation"]), (true, &false.into(), &5.into()));
        let (good, refused) = ask("DELETE", "/v1/rules/0?generation=3", vec![]);
        assert_eq!((good, &refused["generation"]), (false, &4.into()));
        for (method, path, body, said) in [
            ("POST", "/v1/chains", "{}", "Add { kind: \"chain\", object: Object {} }; nothing was changed"),
            ("PUT", "/v1/chains/up", "{}", "Replace { kind: \"chain\", name: \"up\""),
            ("PUT", "/v1/config", "{\"file\":\"/a\",\"text\":\"b\"}", "Config(ConfigRequest { file: \"/a\""),
            (
                "PUT",
                "/v1/config",
                "{\"file\":\"/a\"}",
                "the body is not what it must be: missing field `text`",
            ),
            ("POST", "/v1/chains", "{", "the body is not what it must be: EOF while parsing"),
            ("POST", "/v1/chains?at=x", "{}", "at must be a number, got x; nothing was changed"),
            ("DELETE", "/v1/chains", "", "no such method at this path"),
            ("POST", "/v1/status", "", "no such method at this path"),
            ("GET", "/v1/chain", "", "no such path"),
        ] {
            let (good, answer) = ask(method, path, body.as_bytes().to_vec());
            let error = answer["error"].as_str().unwrap();
            assert!(!good && error.starts_with(said), "{method} {path}: {error}");
        }
    }

    #[test]
    fn a_body_may_be_as_long_as_the_limit_and_not_one_byte_longer() {
        let body = |bytes| [b"{}".to_vec(), vec![b' '; bytes - 2]].concat();
        let error = |bytes| ask("POST", "/v1/chains", body(bytes)).1["error"].as_str().unwrap().to_owned();
        assert!(error(BODY_BYTES_MAX).starts_with("Add {"), "read, and refused by the switch");
        assert_eq!(error(BODY_BYTES_MAX + 1), "the body is longer than 4194304 bytes; nothing was changed");
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
