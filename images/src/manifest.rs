//! What the image was tested with, and what one build was made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::package::Package;

/// The committed `images/manifest.toml`: the packages that were tested.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tested {
    /// The versioned kernel package.
    pub kernel: Package,
    /// The shell and tools of the guest.
    pub busybox: Package,
}

impl Tested {
    /// The one that this builder was compiled with.
    ///
    /// # Errors
    /// If the file is not of this form.
    pub fn committed() -> Result<Self, toml_edit::de::Error> {
        toml_edit::de::from_str(include_str!("../manifest.toml"))
    }
}

/// `manifest.json`: versions and hashes of all that went into one image and came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// Kernel package.
    pub kernel: Package,
    /// Busybox package.
    pub busybox: Package,
    /// Program in the guest's `/bin` → SHA-256.
    pub programs: BTreeMap<String, String>,
    /// File of ours in the guest → SHA-256.
    pub guest_files: BTreeMap<String, String>,
    /// Kernel modules, in load order.
    pub modules: Vec<String>,
    /// Output file → SHA-256.
    pub outputs: BTreeMap<String, String>,
}

/// One line for each package that is another one than was tested.
#[must_use]
pub fn differences(tested: &Tested, kernel: &Package, busybox: &Package) -> Vec<String> {
    [(&tested.kernel, kernel), (&tested.busybox, busybox)]
        .into_iter()
        .filter(|(tested, used)| tested != used)
        .map(|(tested, used)| {
            let (name, version) = (&used.name, &used.version);
            format!("using {name} {version}; last tested with {} {}", tested.name, tested.version)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_kernel_is_said_and_the_tested_one_is_not() {
        let tested = Tested::committed().unwrap();
        assert!(differences(&tested, &tested.kernel, &tested.busybox).is_empty());

        let newer = Package { version: "6.1.999-1".to_owned(), ..tested.kernel.clone() };
        let said = differences(&tested, &newer, &tested.busybox);
        let kernel = &tested.kernel;
        let expected = format!("using {0} 6.1.999-1; last tested with {0} {1}", kernel.name, kernel.version);
        assert_eq!(said, [expected]);
    }
}
