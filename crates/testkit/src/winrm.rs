//! A WinRM server with real NTLM, in Python: what a Windows guest answers. What it is asked to run is run by `/bin/sh`, since
//! there is no PowerShell here.

use crate::world::{World, eventually};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// The folder of the server.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/winrm")
}

/// Returns the command of a stand-in for PowerShell, which takes a text.
pub fn powershell() -> String {
    format!("python3 {}", folder().join("powershell.py").display())
}

/// A running server; it ends with this value.
pub struct Peer {
    child: Child,
    /// Its port on the loopback address.
    pub port: u16,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// Starts one for this user, with further options of the server.
    pub fn start(user: &str, password: &str, options: &[&str]) -> Self {
        let python = folder().join("venv/bin/python");
        assert!(python.exists(), "the tests of WinRM need its server: `make peer`");
        let mut command = Command::new(python);
        command.arg(folder().join("peer.py")).args(["--user", user, "--port", "0"]).args(options);
        command.env("WINRM_PEER_PASSWORD", password).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("peer");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its first line");
        let port = line.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
        Self { child, port: port.unwrap_or_else(|| panic!("no port in {line:?}")) }
    }
}

/// Makes a certificate of this host's loopback names in a world, as `NAME.pem`, and its key, as `NAME.key`; returns its
/// fingerprint.
pub fn certificate(world: &World, name: &str) -> String {
    let (cert, key) = (world.path(&format!("{name}.pem")), world.path(&format!("{name}.key")));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=win"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl").success());
    let shown = Command::new("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&cert).output();
    let shown = String::from_utf8(shown.expect("openssl").stdout).expect("text");
    format!("sha256:{}", shown.trim().rsplit('=').next().expect("fingerprint"))
}

/// Stands between vmdeck and a server, and keeps all that goes either way.
pub struct Tap {
    /// Its port on the loopback address.
    pub port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    /// Starts one in front of this port.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let port = listener.local_addr().expect("address").port();
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let ways = [(&client, &server), (&server, &client)];
                for (from, into) in ways {
                    let (from, into) = (from.try_clone().expect("clone"), into.try_clone().expect("clone"));
                    let kept = Arc::clone(&kept);
                    thread::spawn(move || carry(from, into, &kept));
                }
            }
        });
        Self { port, seen }
    }

    /// Returns all that went either way so far.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().expect("lock").clone()
    }
}

fn carry(mut from: TcpStream, mut into: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        seen.lock().expect("lock").extend_from_slice(&buffer[..length]);
        if into.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(std::net::Shutdown::Both);
}

/// Returns the actions that a server has written to its log, in their order.
pub fn actions(log: &Path) -> Vec<String> {
    eventually("the server writes its log", Duration::from_secs(5), || log.exists());
    let lines = fs::read_to_string(log).expect("log");
    let action = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).ok()?;
        row["action"].as_str().map(str::to_owned)
    };
    lines.lines().filter_map(action).collect()
}
