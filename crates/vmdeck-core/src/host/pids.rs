//! Which processes there are, and killing exactly the one that was meant.
//!
//! A pid alone proves nothing: it may have been reused. Whoever kills says how the process is recognised.

use std::{ffi::OsString, time::Duration};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

/// A process as the system reports it.
#[derive(Clone, Debug)]
pub struct Process {
    /// The id of the process.
    pub pid: u32,
    /// When the process started, in seconds since 1970.
    pub started: u64,
    /// The argument list.
    pub argv: Vec<OsString>,
    /// The id of the parent process.
    pub parent: Option<u32>,
    /// Whether the process is dead and only waits to be reaped by its parent.
    pub zombie: bool,
}

impl Process {
    /// Returns whether this exact word is among its arguments.
    pub fn has_arg(&self, word: &str) -> bool {
        self.argv.iter().any(|a| a == word)
    }
}

fn read(which: ProcessesToUpdate<'_>, kind: ProcessRefreshKind) -> Option<System> {
    let mut system = System::new().ok()?;
    system.refresh_processes_specifics(which, true, kind);
    Some(system)
}

fn describe(process: &sysinfo::Process) -> Process {
    Process {
        pid: process.pid().as_u32(),
        started: process.start_time(),
        argv: process.cmd().to_vec(),
        parent: process.parent().map(Pid::as_u32),
        zombie: matches!(process.status(), sysinfo::ProcessStatus::Zombie | sysinfo::ProcessStatus::Dead),
    }
}

/// Returns the process of this pid, if there is one that is not dead.
pub fn lookup(pid: u32) -> Option<Process> {
    let pid = Pid::from_u32(pid);
    let kind = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
    let system = read(ProcessesToUpdate::Some(&[pid]), kind)?;
    system.process(pid).map(describe).filter(|p| !p.zombie)
}

/// Returns whether there is a process of this pid, also where we may not see anything of it (`hidepid`).
pub fn exists(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Returns whether pids are those of the host: in a container a pid of the host means another process, or none.
pub fn are_of_the_host() -> bool {
    // The number of the first namespace is fixed in the kernel (PROC_PID_INIT_INO). Without /proc there are no namespaces.
    std::fs::read_link("/proc/self/ns/pid").map_or(true, |name| name.as_os_str() == "pid:[4026531836]")
}

/// Returns this process.
pub fn current() -> u32 {
    std::process::id()
}

/// Returns every process that is not dead; threads are left out.
pub fn all() -> Vec<Process> {
    let kind = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
    let Some(system) = read(ProcessesToUpdate::All, kind) else { return Vec::new() };
    let all = system.processes().values().filter(|p| p.thread_kind().is_none()).map(describe);
    all.filter(|p| !p.zombie).collect()
}

/// Returns every process that has this exact word among its arguments.
pub fn with_arg(word: &str) -> Vec<Process> {
    all().into_iter().filter(|p| p.has_arg(word)).collect()
}

/// Returns every process that has this exact `NAME=value` in its environment.
pub fn with_env(pair: &str) -> Vec<Process> {
    let kind = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always).with_environ(UpdateKind::Always);
    let Some(system) = read(ProcessesToUpdate::All, kind) else { return Vec::new() };
    let all = system.processes().values().filter(|p| p.thread_kind().is_none());
    all.filter(|p| p.environ().iter().any(|e| e == pair)).map(describe).filter(|p| !p.zombie).collect()
}

/// Returns whether the process of this pid has this exact `NAME=value` in its environment.
pub fn has_env(pid: u32, pair: &str) -> bool {
    let pid = Pid::from_u32(pid);
    let system = read(ProcessesToUpdate::Some(&[pid]), ProcessRefreshKind::nothing().with_environ(UpdateKind::Always));
    system.is_some_and(|s| s.process(pid).is_some_and(|p| p.environ().iter().any(|e| e == pair)))
}

/// Returns every process below this one that is not dead.
pub fn below(pid: u32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = Vec::new();
    loop {
        let is_known = |id: u32| id == pid || found.iter().any(|process| process.pid == id);
        let new: Vec<Process> =
            all.iter().filter(|p| !is_known(p.pid) && p.parent.is_some_and(is_known)).cloned().collect();
        if new.is_empty() {
            return found;
        }
        found.extend(new);
    }
}

/// Returns the resident memory in bytes and the processor time in milliseconds of a process.
pub fn usage(pid: u32) -> Option<(u64, u64)> {
    let pid = Pid::from_u32(pid);
    let system = read(ProcessesToUpdate::Some(&[pid]), ProcessRefreshKind::nothing().with_memory().with_cpu())?;
    system.process(pid).map(|p| (p.memory(), p.accumulated_cpu_time()))
}

/// Returns when a process began, in seconds since 1970; `None` = there is none.
pub fn started(pid: u32) -> Option<u64> {
    lookup(pid).map(|process| process.started)
}

/// Returns the memory of a process that only its end gives back, in bytes: what it wrote and what it shares, without pages of
/// files, which the system takes when it needs them. Where the system does not tell these apart, all of its memory.
pub fn private_memory(pid: u32) -> Option<u64> {
    let status = std::path::PathBuf::from(format!("/proc/{pid}/status"));
    let of_status = vmdeck_files::read_text(&status, vmdeck_files::SMALL).ok().and_then(|text| {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some((field("RssAnon")? + field("RssShmem")?) * 1024)
    });
    of_status.or_else(|| usage(pid).map(|(memory, _)| memory))
}

/// Kills the process of this pid if `is_it` recognises it, and waits until it is gone; `false` = it is still there.
///
/// On Linux the process is held by a pidfd from before the check, so a reused pid cannot be hit.
pub async fn kill_exactly(pid: u32, is_it: impl Fn(&Process) -> bool, limit: Duration) -> std::io::Result<bool> {
    use rustix::process::{Pid, Signal};
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(true) };
    #[cfg(target_os = "linux")]
    let handle = match rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) {
        Ok(handle) => Some(handle),
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        // An old kernel: the check by name and start time has to do.
        Err(_) => None,
    };
    let Some(process) = lookup(pid) else { return Ok(true) };
    if !is_it(&process) {
        return Ok(true);
    }
    #[cfg(target_os = "linux")]
    let sent = match &handle {
        Some(handle) => rustix::process::pidfd_send_signal(handle, Signal::KILL),
        None => rustix::process::kill_process(raw, Signal::KILL),
    };
    #[cfg(not(target_os = "linux"))]
    let sent = rustix::process::kill_process(raw, Signal::KILL);
    match sent {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(e) => return Err(e.into()),
    }
    let gone = async {
        // Somebody else's child cannot be waited for; it ends within microseconds of the signal. By its start time: a dying
        // process has no argument list any more.
        while lookup(pid).is_some_and(|p| p.started == process.started) {
            super::clock::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(super::clock::within(limit, gone).await.is_some())
}

/// How often a process that is nobody's child of ours is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until the process of this pid, which began then, is gone: for one that is no child of ours, of whose end nobody tells.
pub async fn until_gone(pid: u32, started: u64) {
    while lookup(pid).is_some_and(|process| process.started == started) {
        super::clock::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_we_may_not_signal_exists_all_the_same() {
        assert!(exists(1) && exists(current()) && !exists(u32::MAX) && !exists(4_194_400));
    }

    #[tokio::test]
    async fn only_the_recognised_process_is_killed() {
        let mut child = Command::new("sleep").arg("31.5").stdin(Stdio::null()).spawn().expect("sleep");
        let limit = Duration::from_secs(5);
        assert!(kill_exactly(child.id(), |p| p.has_arg("not this one"), limit).await.expect("no error"));
        let process = lookup(child.id()).expect("an innocent process must live");
        let gone = tokio::spawn(until_gone(process.pid, process.started));
        assert!(with_arg("31.5").iter().any(|p| p.pid == child.id()));
        assert!(kill_exactly(child.id(), |p| p.has_arg("31.5"), limit).await.expect("killed"));
        assert!(lookup(child.id()).is_none());
        child.wait().expect("collected");
        super::super::clock::within(limit, gone).await.expect("told").expect("no panic");
        until_gone(process.pid, process.started).await;
    }
}
