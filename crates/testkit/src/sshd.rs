//! OpenSSH's own server, run by whoever runs the test.

use crate::world::{World, eventually};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A running server; it ends with this value.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a port that nobody has at this address.
pub fn free_port(ip: &str) -> u16 {
    TcpListener::bind((ip, 0)).expect("port").local_addr().expect("address").port()
}

/// Returns who runs the test, and so may log in.
pub fn user() -> String {
    let out = Command::new("id").arg("-un").output().expect("id");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

impl Server {
    /// Starts one at this address. Its key is `NAMEhost_key`, the user's is `user_key`, its log is `NAMEsshd.log`.
    pub fn start(world: &World, name: &str, ip: &str, port: u16) -> Self {
        for (file, kind) in [(format!("{name}host_key"), "ecdsa"), ("user_key".to_owned(), "rsa")] {
            if world.path(&file).exists() {
                continue;
            }
            let made =
                Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(world.path(&file)).status();
            assert!(made.expect("ssh-keygen").success());
        }
        fs::copy(world.path("user_key.pub"), world.path("authorized")).expect("copy");
        // Where sshd runs as root it wants this folder.
        let _ = fs::create_dir_all("/run/sshd");
        let config = format!(
            "ListenAddress {ip}:{port}\nHostKey {0}/{name}host_key\nAuthorizedKeysFile {0}/authorized\nStrictModes no\nUsePAM no\n\
             PidFile none\nPermitRootLogin yes\nMaxSessions 2\nLogLevel VERBOSE\n",
            world.home.path().display()
        );
        fs::write(world.path(&format!("{name}sshd_config")), config).expect("config");
        let usual = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"];
        let binary = usual.into_iter().find(|p| fs::metadata(p).is_ok()).expect("sshd");
        // By relative paths: its command line must not look like something of ours that was left.
        let mut command = Command::new(binary);
        command.args(["-D", "-e", "-f", &format!("{name}sshd_config")]).stdin(Stdio::null());
        let log = fs::File::create(world.path(&format!("{name}sshd.log"))).expect("log");
        let child = command.current_dir(world.home.path()).stderr(log).spawn().expect("sshd starts");
        eventually("sshd", Duration::from_secs(10), || TcpStream::connect((ip, port)).is_ok());
        Self(child)
    }
}
