//! OpenSSH's own server: run by whoever runs the test, or as root in a mount namespace of its own, where another login
//! shell, other programs and other folders can be root's.

use crate::world::{World, eventually};
use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
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

/// Returns whether the test cannot be run here, and says so: it needs root, and these programs.
pub fn lacks(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|name| program(name).is_none()).collect();
    let works = |program: &&str| {
        // Root in a container may not be allowed to.
        let mut own = Command::new(program);
        *program != "unshare" || own.args(["-m", "true"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    if user() == "root" && missing.is_empty() && programs.iter().all(works) {
        return false;
    }
    let _ = writeln!(std::io::stderr(), "not tested here: it needs root and {}", programs.join(", "));
    true
}

/// Returns where a program is.
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];
    folders.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
}

/// Makes the keys of a world that are not there yet: file and kind. The user's may log in.
fn make_keys(world: &World, keys: [(&str, &str); 2]) {
    for (file, kind) in keys {
        if world.path(file).exists() {
            continue;
        }
        let made = Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(world.path(file)).status();
        assert!(made.expect("ssh-keygen").success());
    }
    fs::copy(world.path("user_key.pub"), world.path("authorized")).expect("copy");
    // Where sshd runs as root it wants this folder.
    let _ = fs::create_dir_all("/run/sshd");
}

/// Returns a configuration; of a key that is set twice, sshd takes the first value.
fn configuration(world: &World, name: &str, ip: &str, port: u16) -> String {
    format!(
        "ListenAddress {ip}:{port}\nHostKey {0}/{name}host_key\nAuthorizedKeysFile {0}/authorized\nStrictModes no\n\
         UsePAM no\nPidFile none\nPermitRootLogin yes\nMaxSessions 2\nLogLevel VERBOSE\n",
        world.home.path().display()
    )
}

impl Server {
    /// Starts one at this address. Its key is `NAMEhost_key`, the user's is `user_key`, its log is `NAMEsshd.log`.
    pub fn start(world: &World, name: &str, ip: &str, port: u16) -> Self {
        make_keys(world, [(&format!("{name}host_key"), "ecdsa"), ("user_key", "ed25519")]);
        fs::write(world.path(&format!("{name}sshd_config")), configuration(world, name, ip, port)).expect("config");
        let mut command = Command::new(program("sshd").expect("sshd"));
        // By relative paths: its command line must not look like something of ours that was left.
        command.args(["-D", "-e", "-f", &format!("{name}sshd_config")]);
        Self::spawn(world, command, name, ip, port)
    }

    /// Kills the server and every connection that it has handed to a process of its own.
    pub fn kill_with_its_connections(self) {
        let mut all = vec![self.0.id().to_string()];
        let mut at = 0;
        while let Some(parent) = all.get(at).cloned() {
            let below = Command::new("pgrep").args(["-P", &parent]).output().expect("pgrep");
            all.extend(String::from_utf8_lossy(&below.stdout).lines().map(str::to_owned));
            at += 1;
        }
        let _ = Command::new("kill").arg("-9").args(&all).stderr(Stdio::null()).status();
    }

    fn spawn(world: &World, mut command: Command, name: &str, ip: &str, port: u16) -> Self {
        let log = fs::File::create(world.path(&format!("{name}sshd.log"))).expect("log");
        let child = command.current_dir(world.home.path()).stdin(Stdio::null()).stderr(log).spawn();
        let mut server = Self(child.expect("sshd starts"));
        eventually("sshd", Duration::from_secs(20), || {
            if let Ok(Some(status)) = server.0.try_wait() {
                let log = fs::read_to_string(world.path(&format!("{name}sshd.log"))).unwrap_or_default();
                panic!("sshd ended: {status}: {log}");
            }
            TcpStream::connect((ip, port)).is_ok()
        });
        server
    }
}

/// What root's login is like at a server that runs in a mount namespace of its own; `lacks(&["unshare"])` says whether there
/// can be none here.
#[derive(Clone, Debug)]
pub struct RootLogin<'a> {
    /// The login shell.
    pub shell: &'a str,
    /// Files of the home folder, which is `home` in the world: name and content.
    pub files: &'a [(&'a str, &'a str)],
    /// Lines of the server's configuration that go before the usual ones.
    pub sshd: &'a str,
    /// Shell commands that are run in the namespace first, in the world's folder.
    pub before: &'a str,
    /// What stands before the key in the file of those that may log in.
    pub key_options: &'a str,
    /// What the guest is: this host, or a machine that may restart.
    pub is_remote: bool,
    /// Lines of the guest's own table.
    pub guest: &'a str,
    /// Lines of the guest's `ssh` table that say where it is and how to log in; the port, user and host key are known.
    pub ssh: &'a str,
}

impl Default for RootLogin<'_> {
    fn default() -> Self {
        Self {
            shell: "/bin/sh",
            files: &[],
            sshd: "",
            before: "",
            key_options: "",
            is_remote: false,
            guest: "boot_timeout = \"30s\"",
            ssh: "host = \"127.0.0.1\"\nkey = \"user_key\"",
        }
    }
}

/// A world whose guest `here` is reached at a server of its own.
pub struct LoginWorld {
    _server: Server,
    /// The world; its processes are this machine's.
    pub world: World,
}

impl RootLogin<'_> {
    /// Starts the server for a world with these suites.
    pub fn start(&self, suites: &str) -> LoginWorld {
        let port = free_port("127.0.0.1");
        let backend =
            if self.is_remote { "backend = \"remote\"\naddress = \"127.0.0.1\"" } else { "backend = \"local\"" };
        let world = World::new(&format!(
            "[guests.here]\n{backend}\ntransports = [\"ssh\"]\nlaunch_retries = 1\n{}\n\
             [guests.here.ssh]\nport = {port}\nuser = \"root\"\nhost_key = \"host_key.pub\"\n{}\n{suites}",
            self.guest, self.ssh
        ));
        make_keys(&world, [("host_key", "ed25519"), ("user_key", "ed25519")]);
        let key = fs::read_to_string(world.path("user_key.pub")).expect("key");
        fs::write(world.path("authorized"), format!("{} {key}", self.key_options)).expect("authorized");
        fs::create_dir(world.path("home")).expect("mkdir");
        for (name, content) in self.files {
            let path = world.path("home").join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
            fs::write(path, content).expect("file");
        }
        self.accounts(&world);
        let config = format!("{}\n{}", self.sshd, configuration(&world, "", "127.0.0.1", port));
        fs::write(world.path("sshd_config"), config).expect("config");
        let sshd = program("sshd").expect("sshd");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec"]).arg(format!(
            "mount --make-rprivate /\nmount --bind passwd /etc/passwd\nmount --bind shells /etc/shells\n{}\n\
             exec {} -D -e -f sshd_config",
            self.before,
            sshd.display()
        ));
        let server = Server::spawn(&world, command, "", "127.0.0.1", port);
        LoginWorld { _server: server, world }
    }

    /// Writes this machine's accounts with root's shell and home replaced.
    fn accounts(&self, world: &World) {
        let text = fs::read_to_string("/etc/passwd").expect("passwd");
        let root = format!("root:x:0:0:root:{}:{}", world.path("home").display(), self.shell);
        let line = |line: &str| if line.starts_with("root:") { root.clone() } else { line.to_owned() } + "\n";
        fs::write(world.path("passwd"), text.lines().map(line).collect::<String>()).expect("passwd");
        let shells = fs::read_to_string("/etc/shells").unwrap_or_default();
        fs::write(world.path("shells"), format!("{shells}{}\n", self.shell)).expect("shells");
    }
}
