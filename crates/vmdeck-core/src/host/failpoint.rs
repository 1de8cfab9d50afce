//! Steps at which tests stop the world: this process, its guardian or both are killed there, or the disk is full from there on.
//!
//! Without the feature `failpoints`, which only tests and benches are built with, a step does nothing. `FAILPOINT=STEP:DEED[:N]` names
//! the step, what happens there, and at which time that it is reached (1 = the first).

#[cfg(feature = "failpoints")]
mod armed {
    use super::super::pids;
    use std::{
        io,
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    /// What happens at a step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Deed {
        KillUs,
        KillGuardian,
        KillBoth,
        Panic,
        /// There is no room on the disk, now and later.
        Full,
    }

    struct Armed {
        step: String,
        deed: Deed,
        /// How often the step is reached before anything happens.
        left: AtomicU32,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let read = || {
            let text = std::env::var("FAILPOINT").ok()?;
            let mut words = text.split(':');
            let step = words.next()?.to_owned();
            let deed = match words.next()? {
                "kill" => Deed::KillUs,
                "kill-guardian" => Deed::KillGuardian,
                "kill-both" => Deed::KillBoth,
                "panic" => Deed::Panic,
                "full" => Deed::Full,
                _ => return None,
            };
            let left = words.next().and_then(|n| n.parse().ok()).unwrap_or(1);
            Some(Armed { step, deed, left: AtomicU32::new(left) })
        };
        ARMED.get_or_init(read).as_ref()
    }

    fn kill(pid: u32) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    pub(super) fn reach(step: &str) -> io::Result<()> {
        let Some(armed) = armed().filter(|armed| armed.step == step) else { return Ok(()) };
        let left = armed.left.load(Ordering::SeqCst);
        if left > 1 {
            armed.left.store(left - 1, Ordering::SeqCst);
            return Ok(());
        }
        if armed.deed == Deed::Full {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        // Once: the next guardian is left alone.
        if left == 0 {
            return Ok(());
        }
        armed.left.store(0, Ordering::SeqCst);
        assert!(armed.deed != Deed::Panic, "a test wants a panic at {step}");
        if armed.deed != Deed::KillUs {
            for guardian in pids::below(pids::current()).iter().filter(|process| process.has_arg("__guardian")) {
                kill(guardian.pid);
            }
        }
        if armed.deed != Deed::KillGuardian {
            kill(pids::current());
            // The signal comes at once; nothing more is done until then.
            loop {
                std::thread::park();
            }
        }
        Ok(())
    }
}

/// Reaches a step.
#[cfg(feature = "failpoints")]
pub fn reach(step: &str) -> std::io::Result<()> {
    armed::reach(step)
}

/// Reaches a step.
#[cfg(not(feature = "failpoints"))]
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
pub fn reach(_: &str) -> std::io::Result<()> {
    Ok(())
}

/// Reaches a step at which nothing can be refused.
#[inline]
pub fn pass(step: &str) {
    let _ = reach(step);
}
