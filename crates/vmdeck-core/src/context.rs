//! The frame of a call to a backend: a limit, a token that cancels it, and a listener for its progress.
//!
//! The caller holds a call to its frame with [`CallContext::run`]; a backend may also use the frame for its own waiting, and has
//! tighter limits of its own for each tool that it starts.

use crate::host::clock;
use std::{fmt, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    quantity::show_duration,
};

/// The frame of one call.
#[derive(Clone, Copy)]
pub struct CallContext<'a> {
    /// How long the call may take.
    pub limit: Duration,
    /// Cancels the call.
    pub cancel: &'a CancellationToken,
    /// Is called with each step that is done, as one line.
    pub progress: &'a (dyn Fn(&str) + Send + Sync),
}

impl fmt::Debug for CallContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext").field("limit", &self.limit).field("cancel", self.cancel).finish_non_exhaustive()
    }
}

impl<'a> CallContext<'a> {
    /// Returns a frame that ignores progress.
    pub fn new(limit: Duration, cancel: &'a CancellationToken) -> Self {
        Self { limit, cancel, progress: &|_| {} }
    }

    /// Returns the same frame with another limit.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Carries `work` out within the frame. `what` completes "cannot ..." in the fault of a call that took too long (blame:
    /// infra) or was cancelled; the work is dropped then, so it must be safe to drop.
    pub async fn run<T>(self, what: impl fmt::Display, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = clock::within(self.limit, work) => done.unwrap_or_else(|| {
                let took = format!("it took longer than {}", show_duration(self.limit));
                Err(Fault::infra(format!("cannot {what}")).because(took))
            }),
            () = self.cancel.cancelled() => Err(Fault::cancelled(format!("cannot {what}")).because("it was cancelled")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::error::Blame;

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_by_its_limit_or_by_being_cancelled() {
        let token = CancellationToken::new();
        let context = CallContext::new(Duration::from_secs(3), &token);
        assert_eq!(context.run("count", async { Ok(7) }).await, Ok(7));
        let late = context.run("list machines", std::future::pending::<Result<()>>()).await.expect_err("late");
        assert_eq!(late.to_string(), "cannot list machines: it took longer than 3.0s");
        assert_eq!(late.blame(), Blame::Infra);
        token.cancel();
        let cancelled =
            context.run("list machines", std::future::pending::<Result<()>>()).await.expect_err("cancelled");
        assert_eq!(cancelled.blame(), Blame::Cancelled);
    }
}
