//! `-k N`: boots within one machine, each by a kexec that the executor does, before the one that is judged.
//!
//! The framework starts the executor anew at each boot, counts down, and with `-o` names the next test case by what is drained; what
//! it says until the last boot is thrown away. Here each of these boots is a case of its own, and one that does not come is failed.

use super::call::Call;
use crate::app::framework::{FrameworkMachine, record};
use vmdeck_model::{
    ids::CaseId,
    suite::{Case, CaseAction, HostProgram},
};

/// One boot that is not judged by the executor.
pub(super) struct KexecCycle {
    /// How many come after it.
    left: u32,
    /// The test case that the executor runs next, where it is another one.
    next: Option<String>,
    /// The test case that the executor runs in this one, where it is another one.
    testcase: Option<String>,
}

/// Returns the boots before the one that is judged.
pub(super) fn cycles(call: &Call, machine: &FrameworkMachine) -> Vec<KexecCycle> {
    let count = call.args.kexec.unwrap_or_default();
    let value = |name: &str| {
        let found = machine.parameters.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let (cpus, memory) = (value("VCPU"), value("MEM"));
    let name = |left: u32| {
        let kind = match call.args.mem_drain.as_deref() {
            Some("yes") => "MEM_DRAIN",
            Some(_) => "NO_MEM_DRAIN",
            None => return None,
        };
        Some(format!("TD_KEXEC_{kind}_{cpus}C_{memory}G_CYCLE_{left}"))
    };
    let cycle = |left: u32| KexecCycle {
        left,
        testcase: if left + 1 == count { None } else { name(left + 1) },
        next: name(left),
    };
    (0..count).rev().map(cycle).collect()
}

impl KexecCycle {
    /// Returns the case of this boot: the executor has to make the guest begin again.
    pub(super) fn case(&self, judged: &Case, program: &HostProgram) -> Option<Case> {
        let id = CaseId::new(&format!("{}.boot-{}", judged.id, self.left + 1)).ok()?;
        let lines = lines(self.left + 1, self.testcase.as_deref());
        let program = HostProgram { closes: false, restarts: true, lines, ..program.clone() };
        Some(Case { id, action: CaseAction::Host(program), ..judged.clone() })
    }

    /// Returns the lines of the record for what comes next.
    pub(super) fn lines_after(&self) -> Vec<String> {
        lines(self.left, self.next.as_deref())
    }
}

/// Returns the lines of the record at a boot with so many to come; the last of a name wins.
fn lines(left: u32, testcase: Option<&str>) -> Vec<String> {
    let testcase = testcase.map(|name| record("TESTCASE", name, false));
    testcase.into_iter().chain([record("KEXEC_CNT", &left.to_string(), true)]).collect()
}
