//! What a kernel must have to be a guest's, by what the guest is for: each option with the consequence of its absence.

/// What a guest wants of its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelNeed {
    /// To start our init from the initial RAM disk, and to talk to it.
    Agent,
    /// To mount folders of the host by 9P.
    Plan9,
    /// To mount folders of the host by virtiofs.
    Virtiofs,
    /// To have a network card.
    Network,
}

/// A feature of a kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Feature {
    /// The name in the kernel's configuration, without `CONFIG_`.
    pub option: &'static str,
    /// The module that it may be in.
    pub module: Option<&'static str>,
    /// What does not work without it.
    pub consequence: &'static str,
    /// Whether the guest is of no use without it.
    pub is_required: bool,
}

const fn built_in(option: &'static str, consequence: &'static str) -> Feature {
    Feature { option, module: None, consequence, is_required: true }
}

const fn loadable(option: &'static str, module: &'static str, consequence: &'static str) -> Feature {
    Feature { option, module: Some(module), consequence, is_required: true }
}

const fn useful(option: &'static str, module: Option<&'static str>, consequence: &'static str) -> Feature {
    Feature { option, module, consequence, is_required: false }
}

const AGENT: &[Feature] = &[
    built_in("BLK_DEV_INITRD", "no initial RAM disk is read, so our init never starts"),
    built_in("DEVTMPFS", "there is no /dev"),
    built_in("TMPFS", "there is no place that the guest can write to"),
    built_in("BINFMT_ELF", "no program runs"),
    built_in("PCI", "no device is seen"),
    loadable("VIRTIO_PCI", "virtio_pci", "no device is seen"),
    loadable("VIRTIO_CONSOLE", "virtio_console", "there is no way to send a command"),
    loadable("OVERLAY_FS", "overlay", "the root would be read-only"),
    useful("BINFMT_SCRIPT", None, "no script with `#!` runs"),
    useful("UNIX98_PTYS", None, "there are no terminals"),
    useful("SERIAL_8250_CONSOLE", None, "the console is silent, so nothing tells why a boot failed"),
    useful("HW_RANDOM_VIRTIO", Some("virtio_rng"), "what needs random numbers starts late"),
];

const PLAN9: &[Feature] = &[
    loadable("NET_9P", "9pnet", "no folder of the host can be mounted by 9p"),
    loadable("NET_9P_VIRTIO", "9pnet_virtio", "no folder of the host can be mounted by 9p"),
    loadable("9P_FS", "9p", "no folder of the host can be mounted by 9p"),
];

const VIRTIOFS: &[Feature] = &[
    loadable("FUSE_FS", "fuse", "no folder of the host can be mounted by virtiofs"),
    loadable("VIRTIO_FS", "virtiofs", "no folder of the host can be mounted by virtiofs"),
];

const NETWORK: &[Feature] = &[loadable("VIRTIO_NET", "virtio_net", "there is no network card")];

impl KernelNeed {
    /// Returns the features that are needed, those that others build on first.
    pub fn features(self) -> &'static [Feature] {
        match self {
            KernelNeed::Agent => AGENT,
            KernelNeed::Plan9 => PLAN9,
            KernelNeed::Virtiofs => VIRTIOFS,
            KernelNeed::Network => NETWORK,
        }
    }
}
