//! The kernels of `guests/kernels`, which `make guest` fetches.

use std::path::{Path, PathBuf};

/// A kernel with its modules.
#[derive(Clone, Copy, Debug)]
pub enum TestKernel {
    /// A kernel with the 9P file system.
    Generic,
    /// A kernel with virtiofs and without 9P.
    Cloud,
}

impl TestKernel {
    /// Returns the folder that holds `boot` and `lib/modules`.
    ///
    /// # Panics
    /// Where it has not been fetched.
    pub fn folder(self) -> PathBuf {
        let name = match self {
            TestKernel::Generic => "generic",
            TestKernel::Cloud => "cloud",
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/kernels/out").join(name);
        assert!(path.exists(), "{} is missing: run `make guest`", path.display());
        path.canonicalize().expect("a path without links")
    }

    /// Returns the version.
    pub fn version(self) -> String {
        std::fs::read_to_string(self.folder().join("version")).expect("version").trim().to_owned()
    }

    /// Returns the file of the kernel.
    pub fn file(self) -> PathBuf {
        self.folder().join(format!("boot/vmlinuz-{}", self.version()))
    }
}
