//! Docker's API, as far as two questions go: which container is this, and where is its image from.
//!
//! What answers has to run as root, and is not believed further than that: its answer is bounded in
//! time and size. HTTP/1.0, so that the end of an answer is the end of the stream.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Told, image_id, since_boot, text};
use crate::owner::Image;

/// `GET /containers/ID/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerAnswer {
    name: String,
    /// Id of the image.
    image: String,
    config: Config,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    /// The image as it was asked for.
    image: String,
}

/// `GET /images/ID/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageAnswer {
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
}

/// What Docker says of the container with this id; an error is in words.
pub(super) fn ask(socket: &Path, id: &str, patience: Duration) -> Result<Told, String> {
    let until = since_boot().saturating_add(patience);
    let container: ContainerAnswer = get(socket, &format!("/containers/{id}/json"), until)?;
    let id = image_id(&container.image);
    // The image may have been removed since: then only its id and its name are left.
    let digests = id.as_ref().and_then(|id| {
        let image: ImageAnswer = get(socket, &format!("/images/{id}/json"), until).ok()?;
        image.repo_digests
    });
    let digests = digests.unwrap_or_default().iter().filter_map(|digest| text(digest)).collect();
    let name = container.name.strip_prefix('/').unwrap_or(&container.name);
    let image = text(&container.config.image).map(|name| Image { name, id, digests });
    Ok(Told { name: text(name), image, ..Told::default() })
}

fn get<T: DeserializeOwned>(socket: &Path, target: &str, until: Duration) -> Result<T, String> {
    let answer = exchange(socket, target, until).map_err(|error| format!("docker: {error}"))?;
    let (head, body) = split(&answer).ok_or("docker: no answer in HTTP")?;
    match status(head) {
        Some(b"200") => {}
        Some(b"404") => return Err("docker does not know it".to_owned()),
        _ => return Err("docker refuses to answer".to_owned()),
    }
    // What is wrong is not told: the error quotes the answer.
    serde_json::from_slice(body)
        .ok()
        .ok_or_else(|| "docker: its answer is not understood".to_owned())
}

/// Everything that comes back on the socket.
fn exchange(socket: &Path, target: &str, until: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(socket, until)?;
    let request =
        format!("GET {target} HTTP/1.0\r\nHost: docker\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        let read = stream.read(&mut part)?;
        answer.extend_from_slice(part.get(..read).unwrap_or_default());
        if read == 0 {
            return Ok(answer);
        }
        if answer.len() > MAX_ANSWER {
            return Err(std::io::Error::other("its answer is too long"));
        }
    }
}

/// Connects to what listens there, if that runs as root.
fn connect(socket: &Path, until: Duration) -> std::io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Also bounds how long `connect` waits where the queue of the listener is full.
    sockopt::set_socket_timeout(&stream, Timeout::Send, Some(left(until)?))?;
    rustix::net::connect(&stream, &address)?;
    if !sockopt::socket_peercred(&stream)?.uid.is_root() {
        return Err(std::io::Error::other("what listens there does not run as root"));
    }
    Ok(UnixStream::from(stream))
}

fn left(until: Duration) -> std::io::Result<Duration> {
    let left = until.saturating_sub(since_boot());
    if left.is_zero() { Err(std::io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Head and body of an answer.
fn split(answer: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let (head, rest) = answer.split_at_checked(end)?;
    Some((head, rest.strip_prefix(b"\r\n\r\n")?))
}

/// The three digits of `HTTP/1.0 200 OK`.
fn status(head: &[u8]) -> Option<&[u8]> {
    head.strip_prefix(b"HTTP/1.")?.get(2..5)
}

/// Some ten kilobytes are usual.
const MAX_ANSWER: usize = 1 << 20;
