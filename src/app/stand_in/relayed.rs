//! A command in the guest, over the engine's session: our input goes there, its output comes here.

use super::real::FAILED;
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    thread,
};
use vmdeck_core::engine::stand_in::{SOCKET, StandInRequest};
use vmdeck_guest::wire::{Body, Decoder, Message, PIECE};

/// Runs what is asked for in the guest; `input` = what it reads, `None` = nothing. Returns its status; where nothing is known of it,
/// that of a stand-in that fails.
pub(super) fn run(
    request: &StandInRequest,
    input: Option<Box<dyn Read + Send>>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    match follow(request, input, out, err) {
        Ok(status) => status,
        Err(e) => {
            let _ = writeln!(err, "error: cannot run a command in the guest: {e}");
            FAILED
        }
    }
}

/// Returns the request to copy something by this text.
pub(super) fn copying(script: String) -> StandInRequest {
    StandInRequest { command: script.clone(), script, copies: true }
}

fn follow(
    request: &StandInRequest,
    input: Option<Box<dyn Read + Send>>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let socket = std::env::var_os(SOCKET).ok_or_else(|| io::Error::other("it is called by no run of vmdeck"))?;
    let mut stream = UnixStream::connect(socket)?;
    let mut send = stream.try_clone()?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
    line.push(b'\n');
    send.write_all(&line)?;
    // It ends with the process, if nobody types the rest.
    thread::spawn(move || pass_input(input, &mut send));
    let mut decoder = Decoder::new(vmdeck_guest::wire::CONTENT_MAX);
    let mut buffer = vec![0; PIECE];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(io::Error::other("the run of vmdeck has ended"));
        }
        decoder.feed(&buffer[..length]);
        while let Some(message) = decoder.next_message().map_err(io::Error::other)? {
            match message.body {
                Body::Stdout(bytes) => out.write_all(&bytes).and_then(|()| out.flush())?,
                Body::Stderr(bytes) => err.write_all(&bytes).and_then(|()| err.flush())?,
                Body::Exited(code) => return Ok(u8::try_from(code).unwrap_or(1)),
                // As a shell tells of it.
                Body::Killed(signal) => return Ok(u8::try_from(128 + signal).unwrap_or(1)),
                Body::Refused(why) => return Err(io::Error::other(why)),
                _ => {}
            }
        }
    }
}

fn message(body: Body) -> Vec<u8> {
    Message { id: 0, body }.to_bytes()
}

fn pass_input(input: Option<Box<dyn Read + Send>>, send: &mut UnixStream) {
    let mut buffer = vec![0; PIECE];
    if let Some(mut input) = input {
        loop {
            match input.read(&mut buffer) {
                Ok(length @ 1..) => {
                    if send.write_all(&message(Body::Input(buffer[..length].to_vec()))).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
    }
    let _ = send.write_all(&message(Body::InputEnd));
}
