//! Cases on LXD, each in an instance of its own, against the daemon's own client in the same run: a ratio, no times.
//!
//! `make bench-lxd`, about two minutes; needs root and the programs of `tests/lxd/cluster.sh`. The goal is printed beside the figure.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::{Duration, Instant};
use vmdeck_testkit::{lxd::LxdCluster, world::World};

const JOBS: usize = 10;
const ROUNDS: usize = 5;

fn main() {
    let Some(cluster) = LxdCluster::start(3) else { return };
    let numbers: Vec<String> = (0..JOBS).map(|n| format!("\"{n}\"")).collect();
    let suites = format!(
        "[suites.s]\nmatrix = {{ n = [{}] }}\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n",
        numbers.join(", ")
    );
    let world = World::new(&(cluster.guest("g", "fresh = \"case\"", "target = \"m2\"") + &suites));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(timed(|| drop(world.run(&["--ci", "--run-dir", &format!("r{round}")]).exits(0))));
        theirs.push(timed(|| {
            for job in 0..JOBS {
                let name = format!("job-{job}");
                cluster.lxc(&["launch", "-q", "micro", &name, "--target", "m2", "-c", "limits.memory=128MiB"]);
                cluster.lxc(&["exec", &name, "--", "true"]);
                cluster.lxc(&["delete", "-f", &name]);
            }
        }));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!(
        "{JOBS} jobs on a member of a cluster: vmdeck {ours:?}, lxc launch, exec and delete {theirs:?}, ratio {ratio:.2} (goal 1.10)"
    );
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
