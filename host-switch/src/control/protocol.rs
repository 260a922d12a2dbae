//! What is said over `endpoint.sock`: JSON, one object a message, version 1.
//!
//! ```text
//! → {"netvm":1,"hello":"process","name":"fwd0"}        or "vm"
//! ← {"netvm":1,"ok":{"control_bytes":65536,"region_bytes":2097152,"read_only":false}}   + control area, region
//! ← {"netvm":1,"error":"..."}                          then the connection ends
//! → {"netvm":1,"qmp":true}                             + the switch's end of a QMP socket (vm only)
//! ← {"netvm":1,"taken":true}
//! → {"netvm":1,"pid":4711,"accelerator":"tcg","with_launcher":true}   + a pidfd of QEMU (vm only)
//! ← {"netvm":1,"taken":true}
//! ```
//!
//! The answer to a VM may have `"uid":1900000000`, the user that QEMU is to change to (`-runas`). `qmp` comes before
//! `pid`; from `pid` on the guest is served. `accelerator` is optional, for people. `with_launcher` is optional: the
//! switch kills QEMU when this connection ends before it.
//!
//! The answer to an untrusted VM has sizes of 0 and comes without memory, and `qmp` is refused: what the switch needs
//! of such a VM is its process. Its NICs connect to sockets of their own. When the switch has gone and come, the
//! launcher says `hello` and `pid` again.

use serde::{Deserialize, Serialize};

/// The version of this protocol.
pub const PROTOCOL_VERSION: u32 = 1;

/// Characters of a complaint about a message, which may quote it.
const QUOTED_CHARS_MAX: usize = 200;

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientKind {
    /// An NF that runs as a process; its connection is its proof of life.
    Process,
    /// `netvm boot` for a VM; the QMP socket is the proof of life.
    Vm,
}

impl ClientKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Vm => "vm",
        }
    }
}

/// A message of the client, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Asks for the memory of a VM or process.
    Hello(ClientKind, String),
    /// Brings the QMP socket.
    Qmp,
    /// Brings the pidfd of QEMU.
    Pid {
        /// Its number, for people.
        pid: i32,
        /// `kvm` or `tcg`, for people.
        accelerator: Option<String>,
        /// It ends with the connection.
        with_launcher: bool,
    },
}

/// A message that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// No JSON object of the known shape.
    #[error("message is not understood: {0}")]
    Shape(String),
    /// Another protocol version.
    #[error("protocol version {found} is not spoken here; this switch speaks {PROTOCOL_VERSION}")]
    Version {
        /// What the client speaks.
        found: u32,
    },
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestWire {
    netvm: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hello: Option<ClientKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    qmp: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accelerator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    with_launcher: Option<bool>,
}

#[derive(Deserialize)]
struct VersionWire {
    netvm: u32,
}

impl Request {
    /// Reads a message.
    ///
    /// # Errors
    /// If it has another version or shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProtocolError> {
        // The version first, so that a newer client hears that and not that its fields are unknown.
        let VersionWire { netvm: found } = serde_json::from_slice(bytes).map_err(shape)?;
        if found != PROTOCOL_VERSION {
            return Err(ProtocolError::Version { found });
        }
        let RequestWire { hello, name, qmp, pid, accelerator, with_launcher, .. } =
            serde_json::from_slice(bytes).map_err(shape)?;
        match (hello, name, qmp, pid, accelerator, with_launcher) {
            (Some(kind), Some(name), None, None, None, None) => Ok(Self::Hello(kind, name)),
            (None, None, Some(true), None, None, None) => Ok(Self::Qmp),
            (None, None, None, Some(_), Some(accelerator), _)
                if accelerator.chars().any(char::is_control) =>
            {
                Err(ProtocolError::Shape("accelerator must be one word".to_owned()))
            }
            (None, None, None, Some(pid), accelerator, with_launcher) => {
                Ok(Self::Pid { pid, accelerator, with_launcher: with_launcher.unwrap_or(false) })
            }
            _ => Err(ProtocolError::Shape("one of hello with name, qmp, pid is expected".to_owned())),
        }
    }

    /// The message as it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut wire = RequestWire { netvm: PROTOCOL_VERSION, ..RequestWire::default() };
        match self {
            Self::Hello(kind, name) => (wire.hello, wire.name) = (Some(*kind), Some(name.clone())),
            Self::Qmp => wire.qmp = Some(true),
            Self::Pid { pid, accelerator, with_launcher } => {
                (wire.pid, wire.accelerator) = (Some(*pid), accelerator.clone());
                wire.with_launcher = with_launcher.then_some(true);
            }
        }
        json(&wire)
    }
}

/// The sizes of the memory that comes with a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Bytes of the control area.
    pub control_bytes: u64,
    /// Bytes of the region.
    pub region_bytes: u64,
    /// Whether the region may be mapped read-only only.
    pub read_only: bool,
    /// The user that QEMU is to change to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

impl Granted {
    /// What an untrusted VM gets: a user for its QEMU, and no memory.
    #[must_use]
    pub fn nothing(uid: Option<u32>) -> Self {
        Self { control_bytes: 0, region_bytes: 0, read_only: false, uid }
    }

    /// Whether no memory comes with it.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.control_bytes == 0 && self.region_bytes == 0
    }
}

/// The answer of the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    netvm: u32,
    #[serde(flatten)]
    said: Said,
}

/// What the switch says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// Here is the memory.
    Ok(Granted),
    /// What came was taken.
    Taken(bool),
    /// No, and why.
    Error(String),
}

impl Reply {
    /// Wraps what is said in the current version.
    #[must_use]
    pub fn new(said: Said) -> Self {
        Self { netvm: PROTOCOL_VERSION, said }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// If it has another version or shape.
    pub fn parse(bytes: &[u8]) -> Result<Said, ProtocolError> {
        let Self { netvm: found, said } = serde_json::from_slice(bytes).map_err(shape)?;
        if found == PROTOCOL_VERSION { Ok(said) } else { Err(ProtocolError::Version { found }) }
    }

    /// The answer as it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        json(self)
    }
}

/// What the reader of JSON objects to. Its words quote the peer's, and end up in logs and on terminals: nothing
/// in them may move a cursor, or go on for ever.
fn shape(error: serde_json::Error) -> ProtocolError {
    let escape =
        |char: char| if char.is_control() { char.escape_default().collect() } else { String::from(char) };
    ProtocolError::Shape(error.to_string().chars().take(QUOTED_CHARS_MAX).map(escape).collect())
}

fn json(message: &impl Serialize) -> Vec<u8> {
    // Strings and numbers in structs: nothing here can fail to become JSON.
    serde_json::to_vec(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_an_endpoint_says() {
        let hello = Request::parse(br#"{"netvm":1,"hello":"process","name":"fwd0"}"#).unwrap();
        assert_eq!(hello, Request::Hello(ClientKind::Process, "fwd0".to_owned()));
        assert_eq!(Request::parse(br#"{"netvm":1,"qmp":true}"#).unwrap(), Request::Qmp);
        let process = Request::Pid { pid: 7, accelerator: Some("tcg".to_owned()), with_launcher: true };
        assert_eq!(Request::parse(&process.to_bytes()).unwrap(), process);
    }

    #[test]
    fn answers_in_the_shape_that_endpoints_read() {
        let granted = Granted { control_bytes: 65536, region_bytes: 2_097_152, read_only: false, uid: None };
        assert_eq!(
            String::from_utf8(Reply::new(Said::Ok(granted)).to_bytes()).unwrap(),
            r#"{"netvm":1,"ok":{"control_bytes":65536,"region_bytes":2097152,"read_only":false}}"#
        );
        assert_eq!(
            String::from_utf8(Reply::new(Said::Error("no".to_owned())).to_bytes()).unwrap(),
            r#"{"netvm":1,"error":"no"}"#
        );
    }

    #[test]
    fn another_version_is_named_even_when_its_fields_are_unknown() {
        assert_eq!(
            Request::parse(br#"{"netvm":2,"greeting":"x"}"#),
            Err(ProtocolError::Version { found: 2 })
        );
    }

    #[test]
    fn a_refusal_quotes_nothing_that_moves_a_cursor() {
        for message in [
            br#"{"netvm":1,"\u001b[2J":1}"#.as_slice(),
            br#"{"netvm":1,"hello":"\u001b[2J","name":"x"}"#,
            br#"{"netvm":1,"pid":1,"accelerator":"\u001b[2J"}"#,
        ] {
            let refused = Request::parse(message).unwrap_err().to_string();
            assert!(!refused.chars().any(char::is_control), "{refused:?}");
        }
        let long = format!(r#"{{"netvm":1,"{}":1}}"#, "x".repeat(3000));
        assert!(Request::parse(long.as_bytes()).unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn a_message_with_two_meanings_is_refused() {
        assert!(Request::parse(br#"{"netvm":1,"qmp":true,"pid":1}"#).is_err());
        assert!(Request::parse(br#"{"netvm":1,"hello":"vm"}"#).is_err());
        assert!(Request::parse(br#"{"netvm":1,"qmp":true,"extra":1}"#).is_err());
    }
}
