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

/// One boot.
pub(super) struct KexecBoot {
    /// How many come after it; the last one is judged.
    left: u32,
    /// What the record of parameters says from it on; the last line of a name wins.
    pub(super) lines: Vec<String>,
}

/// Returns the boots of a call, the judged one last; none where there is only that.
pub(super) fn boots(call: &Call, machine: &FrameworkMachine) -> Vec<KexecBoot> {
    let count = call.args.kexec.unwrap_or_default();
    if count == 0 {
        return Vec::new();
    }
    let value = |name: &str| {
        let found = machine.parameters.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let kind = call.args.mem_drain.as_deref().map(|word| if word == "yes" { "MEM_DRAIN" } else { "NO_MEM_DRAIN" });
    let (cpus, memory) = (value("VCPU"), value("MEM"));
    let boot = |left: u32| {
        // The first one runs the test case that was named.
        let kind = kind.filter(|_| left < count);
        let name = kind.map(|kind| format!("TD_KEXEC_{kind}_{cpus}C_{memory}G_CYCLE_{left}"));
        let testcase = name.map(|name| record("TESTCASE", &name, false));
        KexecBoot { left, lines: testcase.into_iter().chain([record("KEXEC_CNT", &left.to_string(), true)]).collect() }
    };
    (0..=count).rev().map(boot).collect()
}

impl KexecBoot {
    /// Returns the case of this boot before the judged one: the executor has to make the guest begin again.
    pub(super) fn case(&self, judged: &Case, program: &HostProgram) -> Option<Case> {
        let id = CaseId::new(&format!("{}.boot-{}", judged.id, self.left)).ok()?;
        let program = HostProgram { closes: false, restarts: true, lines: self.lines.clone(), ..program.clone() };
        Some(Case { id, action: CaseAction::Host(program), ..judged.clone() })
    }
}
