//! Bytes on the control socket, where an operator's HTTP is spoken.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use security_domains::{Edit, Kind, edit, parse_text_as};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use crate::plan::Difference;
use crate::switch::api::{Answers, routes};
use crate::switch::order::{Act, OrderError};
use crate::switch::request::{Applied, ChangeError, ConfigRequest, Options, RunningConfig, Wish};
use crate::switch::status::{Audit, OwnerStatus, Status};

/// What runs.
const CONFIG: &str = include_str!("../../security-domains/examples/demo.toml");

/// More than any answer to one input has.
const PIPE_BYTES: usize = 1 << 20;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread().build().unwrap_or_else(|error| panic!("no runtime: {error}"))
});

/// A switch that counts what it is told to do.
#[derive(Default)]
struct Told {
    changes: AtomicUsize,
}

impl Answers for Told {
    fn status(&self) -> Result<Status, String> {
        Ok(Status::default())
    }

    fn audit(&self) -> Result<Audit, String> {
        Err("no lcore answers".to_owned())
    }

    fn config(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    fn text(&self) -> RunningConfig {
        RunningConfig { generation: 1, file: "/etc/demo.toml".into(), text: CONFIG.to_owned() }
    }

    /// As the switch does it, up to the lcores.
    fn change(&self, wish: &Wish, options: Options) -> Result<Applied, ChangeError> {
        self.changes.fetch_add(1, Relaxed);
        let edit = match wish {
            Wish::Config(ConfigRequest { text, .. }) => Ok(text.clone()),
            Wish::Add { kind, object } => edit(CONFIG, kind, Edit::Add { object, at: options.at }),
            Wish::Replace { kind, name, object } => edit(CONFIG, kind, Edit::Replace { name, object }),
            Wish::Remove { kind, name } => edit(CONFIG, kind, Edit::Remove { name }),
        };
        let text = edit.map_err(ChangeError::Edit)?;
        let parse = |text: &str| parse_text_as(text, "/etc/demo.toml".as_ref(), "demo.toml");
        let config = parse(&text).map_err(|findings| {
            let is_edited = !matches!(wish, Wish::Config(_));
            let is_broken = findings.iter().any(|finding| finding.kind == Kind::Syntax);
            assert!(!(is_edited && is_broken), "an edit has broken the text: {findings}");
            ChangeError::Findings(findings)
        })?;
        let running = parse(CONFIG).map_err(ChangeError::Findings)?;
        let difference = Difference::between(&running, &config);
        assert!(Difference::between(&config, &config).is_empty());
        Ok(Applied { applied: true, generation: 2, difference, ..Applied::default() })
    }

    fn order(&self, act: Act, name: &str) -> Result<OwnerStatus, OrderError> {
        self.changes.fetch_add(1, Relaxed);
        match act {
            Act::Detach => Ok(OwnerStatus { name: name.to_owned(), ..OwnerStatus::default() }),
            Act::Attach => Err(OrderError::NotNow("it is attached".to_owned())),
            Act::Kill => Err(OrderError::unknown(name, &["fw0"])),
        }
    }

    fn stop(&self) {
        self.changes.fetch_add(1, Relaxed);
    }
}

/// Speaks the bytes and hangs up: never a panic, nothing is changed but by POST, PUT or DELETE, an edit leaves a text
/// that can be read, and what is answered is HTTP.
pub fn run(data: &[u8]) {
    let told = Arc::new(Told::default());
    let answered = RUNTIME.block_on(speak(data, told.clone()));
    let count = |method: &[u8]| data.windows(method.len()).filter(|word| *word == method).count();
    let posts = count(b"POST") + count(b"PUT") + count(b"DELETE");
    let changes = told.changes.load(Relaxed);
    assert!(changes <= posts, "{changes} changes by {posts} requests that may change anything");
    assert!(
        answered.is_empty() || answered.starts_with(b"HTTP/1."),
        "{:?}",
        answered.escape_ascii().to_string()
    );
    assert!(!answered.windows(25).any(|words| words == b"500 Internal Server Error"), "a handler panicked");
}

async fn speak(data: &[u8], told: Arc<Told>) -> Vec<u8> {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let (mut hears, mut says) = tokio::io::split(theirs);
    let service = TowerToHyperService::new(routes(told));
    let server = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(ours), service);
    let client = async {
        let mut answered = Vec::new();
        // The server may hang up in the middle of what is said.
        let said = says.write_all(data).await.and(says.shutdown().await);
        let heard = hears.read_to_end(&mut answered).await;
        assert!(heard.is_ok(), "{said:?} {heard:?}");
        answered
    };
    let (served, answered) = tokio::join!(server, client);
    // What is no HTTP ends the connection with an error, which is the answer.
    assert!(served.is_ok() || answered.len() <= PIPE_BYTES);
    answered
}
