//! Asks a running switch over its control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::control::status::ApiError;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing to ask.
    #[error("no switch runs (looked in {}); start one with `netvm run FILE`", root.display())]
    NoSwitch {
        /// Where runtime directories are.
        root: PathBuf,
    },
    /// The named switch is not there.
    #[error("switch {name} does not run (no {}); start it with `netvm run FILE`{others}", socket.display())]
    NotRunning {
        /// Its name.
        name: String,
        /// The socket that is not there.
        socket: PathBuf,
        /// Which switches run instead.
        others: String,
    },
    /// More than one.
    #[error("several switches run: {}; say which with --switch NAME", names.join(", "))]
    Several {
        /// Their names.
        names: Vec<String>,
    },
    /// Nobody behind the socket.
    #[error("no switch answers at {}: {source}; if it was killed, start it again with `netvm run FILE`", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The conversation broke.
    #[error("the switch at {} broke off: {cause}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// How.
        cause: String,
    },
    /// The switch refused.
    #[error("the switch refused: {0}")]
    Refused(String),
}

/// Where a switch listens.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The switch behind this very socket.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The switch of this name, or the only one that runs.
    ///
    /// # Errors
    /// If there is none, or several to choose from.
    pub fn find(root: &Path, name: Option<&str>) -> Result<Self, ClientError> {
        let mut names = running(root);
        if let Some(name) = name {
            let socket = root.join(name).join("control.sock");
            if socket.exists() {
                return Ok(Self { socket });
            }
            let others =
                if names.is_empty() { String::new() } else { format!("; these run: {}", names.join(", ")) };
            return Err(ClientError::NotRunning { name: name.to_owned(), socket, others });
        }
        match (names.pop(), names.is_empty()) {
            (None, _) => Err(ClientError::NoSwitch { root: root.to_owned() }),
            (Some(only), true) => Ok(Self { socket: root.join(only).join("control.sock") }),
            (Some(last), false) => {
                names.push(last);
                Err(ClientError::Several { names })
            }
        }
    }

    /// Whether the socket is still there: a switch removes it as the last thing it does.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.socket.exists()
    }

    /// Asks and reads the answer.
    ///
    /// # Errors
    /// If nobody answers, or the switch refuses.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (good, answer) = self.ask("GET", path, Vec::new())?;
        self.read(good, &answer)
    }

    /// Tells the switch to do something.
    ///
    /// # Errors
    /// If nobody answers, or the switch refuses.
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (good, answer) = self.ask("POST", path, Vec::new())?;
        self.read(good, &answer)
    }

    /// Asks with a body; whether the switch has done it, and what it says.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(bool, Bytes), ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.broken(&error))?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| self.broken(&error))?;
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.exchange(method, path, body))
                .await
                .map_err(|_| self.broken(&format!("no answer within {} s", PATIENCE.as_secs())))?
        })
    }

    /// Reads what the switch has said.
    ///
    /// # Errors
    /// Why it has not done it.
    pub fn read<T: DeserializeOwned>(&self, good: bool, answer: &[u8]) -> Result<T, ClientError> {
        if good {
            return serde_json::from_slice(answer).map_err(|error| self.broken(&error));
        }
        let said: ApiError = serde_json::from_slice(answer).unwrap_or_default();
        Err(ClientError::Refused(said.error))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(bool, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(&e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "netvm")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let good = answer.status().is_success();
        let body = answer.into_body().collect().await.map_err(|error| self.broken(&error))?;
        Ok((good, body.to_bytes()))
    }

    fn broken(&self, cause: &impl ToString) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), cause: cause.to_string() }
    }
}

/// Names of the switches with a control socket.
fn running(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("control.sock").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
