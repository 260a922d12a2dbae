//! Messages on `endpoint.sock`, from either side.

use crate::switch::protocol::{Reply, Request};

/// Longest message that is read from the socket.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Reads a message as a request and as a reply. What is understood says the same once more when it is written
/// and read again; what is not is refused in words that may be shown on a terminal.
pub fn run(data: &[u8]) {
    let message = &data[..data.len().min(MESSAGE_BYTES_MAX)];
    match Request::parse(message) {
        Ok(request) => {
            assert_eq!(Request::parse(&request.to_bytes()).as_ref(), Ok(&request));
            if let Request::Pid { accelerator: Some(shown), .. } = &request {
                assert_printable(shown);
            }
        }
        Err(refused) => assert_printable(&refused.to_string()),
    }
    match Reply::parse(message) {
        Ok(said) => assert_eq!(Reply::parse(&Reply::new(said.clone()).to_bytes()), Ok(said)),
        Err(refused) => assert_printable(&refused.to_string()),
    }
}

/// Refusals go into logs and onto terminals: bytes of the peer in them must not move a cursor.
fn assert_printable(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
