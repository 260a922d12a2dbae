//! Checks whether this machine is ready; each line says how to fix what is not.

use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::control::eal;
use crate::plan::Plan;
use crate::qemu::accel::{Accelerator, Trial};

/// Files of the guest image.
const KERNEL: &str = "vmlinuz";
const INITRAMFS: &str = "initramfs.cpio.gz";
const MANIFEST: &str = "manifest.json";
/// Programs that the image as it is built here has.
const PROGRAMS: [&str; 6] = ["firewall", "forwarder", "l2fwd", "monitor", "netlib-supervise", "router"];

/// The config of the demo, whose memory any machine should have.
const DEMO: &str = include_str!("../../../security-domains/examples/demo.toml");

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, with a limit that is named.
    Warn,
    /// netvm does not work like this.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), fix: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything; `image` is the folder of the guest image.
#[must_use]
pub fn examine(image: &Path) -> Vec<Check> {
    vec![
        privileges(),
        hugepages(Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB"), demo_hugepages()),
        memory(&read("/proc/meminfo")),
        image_files(image),
        accelerator(image),
        qemu(),
        dpdk(),
        iommu(),
        numa(&read("/sys/devices/system/node/online")),
        isolation(&read("/sys/devices/system/cpu/isolated")),
    ]
}

/// Prints the checks; true if none failed.
#[must_use]
pub fn print(checks: &[Check], json: bool) -> bool {
    if json {
        println!("{}", serde_json::json!({ "checks": checks }));
    } else {
        for Check { name, verdict, found, fix } in checks {
            let verdict = match verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            println!("{verdict:<5} {name:<12} {found}");
            if let Some(fix) = fix {
                println!("{:<18} fix: {fix}", "");
            }
        }
    }
    checks.iter().all(|check| check.verdict != Verdict::Fail)
}

fn privileges() -> Check {
    let status = read("/proc/self/status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0").trim();
    let capabilities = u64::from_str_radix(effective, 16).unwrap_or(0);
    // CAP_NET_ADMIN is 12, CAP_NET_RAW 13, CAP_SYS_ADMIN 21: see capability.h.
    let missing: Vec<&str> = [(12, "NET_ADMIN"), (13, "NET_RAW"), (21, "SYS_ADMIN")]
        .into_iter()
        .filter(|(bit, _)| capabilities & (1 << bit) == 0)
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        return Check::ok("privileges", "may open network devices");
    }
    Check::warn(
        "privileges",
        format!("missing capabilities: {}", missing.join(", ")),
        "run `netvm run` as root for ports on network devices",
    )
}

fn hugepages(folder: &Path, needed: u64) -> Check {
    let count = |file: &str| read_number(&folder.join(file));
    let Some((all, free)) = count("nr_hugepages").zip(count("free_hugepages")) else {
        return Check::warn(
            "hugepages",
            "this kernel has no 2 MiB pages",
            "set pages = \"plain\" in each domain, or boot a kernel with hugetlbfs",
        );
    };
    let found = format!("{free} of {all} pages of 2 MiB free, the demo's switch takes {needed}");
    if free >= needed {
        return Check::ok("hugepages", found);
    }
    let wanted = all + needed - free;
    Check::warn(
        "hugepages",
        found,
        format!(
            "reserve them: `echo {wanted} | sudo tee /proc/sys/vm/nr_hugepages`, for every boot \
             `vm.nr_hugepages = {wanted}` in /etc/sysctl.d; `netvm check FILE` says how many another config needs. \
             With pages = \"hugetlb-or-plain\" a switch starts without, and is slower"
        ),
    )
}

/// Pages of 2 MiB that the switch of the demo takes: its region, and DPDK for itself.
fn demo_hugepages() -> u64 {
    let Ok(config) = security_domains::parse(DEMO, "demo.toml") else { return 0 };
    let regions: u64 = config.needs().iter().map(|need| need.hugepages_2mib).sum();
    let own_mib = Plan::new(&config, 0).map_or(0, |plan| eal::memory_mib(&plan));
    regions + own_mib.div_ceil(eal::MIB_PER_HUGEPAGE)
}

fn memory(meminfo: &str) -> Check {
    let available_kib: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0);
    let found = format!("{} MiB available", available_kib / 1024);
    if available_kib >= 1 << 20 {
        return Check::ok("memory", found);
    }
    Check::warn(
        "memory",
        found,
        "free 1 GiB or more: a VM takes its memory_mib, a domain its region_mib, the switch about 256 MiB",
    )
}

fn dpdk() -> Check {
    // The program would not have started without the library.
    Check::ok("dpdk", dpdk::version())
}

fn image_files(image: &Path) -> Check {
    let missing: Vec<&str> =
        [KERNEL, INITRAMFS].into_iter().filter(|file| !image.join(file).is_file()).collect();
    if missing.is_empty() {
        return image_programs(image);
    }
    Check::warn(
        "image",
        format!("{} lacks {}", image.display(), missing.join(" and ")),
        "`cargo xtask image` builds it; elsewhere: --image PATH. VMs need it, processes do not",
    )
}

/// Looks into the manifest for the programs of the image.
fn image_programs(image: &Path) -> Check {
    let found = format!("guest image in {}", image.display());
    let manifest: Option<serde_json::Value> = std::fs::read(image.join(MANIFEST))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .filter(|manifest: &serde_json::Value| manifest["programs"].is_object());
    let Some(manifest) = manifest else {
        return Check::ok(
            "image",
            format!("{found}; without a {MANIFEST}, so which NFs it has is not known"),
        );
    };
    let missing: Vec<&str> =
        PROGRAMS.into_iter().filter(|program| manifest["programs"].get(program).is_none()).collect();
    if missing.is_empty() {
        return Check::ok("image", format!("{found}, with the NFs"));
    }
    Check::warn(
        "image",
        format!("{found}, without {}", missing.join(", ")),
        "`cargo xtask image` builds it anew with all NFs; a VM of a missing one ends right after its boot",
    )
}

/// Tries KVM anew, whatever an earlier trial has found.
fn accelerator(image: &Path) -> Check {
    const FIX: &str = "enable VT-x or AMD-V in the firmware (in a VM: nested virtualisation of its host) and give \
                       this user /dev/kvm; with TCG everything works, more slowly";
    let choice = match Trial::of_netvm(Some((image.join(KERNEL), image.join(INITRAMFS)))) {
        Ok(trial) => trial.run(),
        Err(error) => return Check::warn("kvm", format!("cannot be tried: {error}"), FIX),
    };
    match choice.accelerator {
        Accelerator::Kvm => Check::ok("kvm", choice.reason),
        Accelerator::Tcg => Check::warn("kvm", choice.reason, FIX),
    }
}

fn iommu() -> Check {
    let units = std::fs::read_dir("/sys/class/iommu").map_or(0, Iterator::count);
    let vfio = Path::new("/dev/vfio/vfio").exists();
    match (units, vfio) {
        (0, _) => Check::warn(
            "iommu",
            "none in use",
            "only NICs by PCI address need it: enable VT-d or AMD-Vi in the firmware and boot with \
             intel_iommu=on or amd_iommu=on iommu=pt",
        ),
        (_, false) => Check::warn("iommu", "in use, but there is no /dev/vfio/vfio", "`modprobe vfio-pci`"),
        (units, true) => Check::ok("iommu", format!("{units} in use, vfio is there")),
    }
}

fn numa(online: &str) -> Check {
    match online.trim() {
        "" | "0" => Check::ok("numa", "one node"),
        nodes => Check::warn(
            "numa",
            format!("nodes {nodes}"),
            "choose switch.lcores on the node of the NIC (/sys/bus/pci/devices/*/numa_node) and start VMs there \
             (`numactl -N`): a remote node halves the rate",
        ),
    }
}

fn isolation(isolated: &str) -> Check {
    match isolated.trim() {
        "" => Check::warn(
            "isolation",
            "no CPU is isolated",
            "for steady rates boot with isolcpus=LIST nohz_full=LIST rcu_nocbs=LIST and use these in switch.lcores",
        ),
        list => Check::ok("isolation", format!("CPUs {list}")),
    }
}

fn qemu() -> Check {
    const FIX: &str = "`apt install qemu-system-x86` (RHEL's qemu-kvm has no ivshmem: build QEMU there)";
    let run = |arguments: &[&str]| {
        let output = Command::new("qemu-system-x86_64").args(arguments).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&text).into_owned())
    };
    let Some(version) = run(&["--version"]) else {
        return Check::fail("qemu", "no qemu-system-x86_64 in PATH", FIX);
    };
    let version = version.lines().next().unwrap_or_default().to_owned();
    match run(&["-device", "help"]) {
        Some(devices) if devices.contains("\"ivshmem-plain\"") => {
            Check::ok("qemu", format!("{version}, with ivshmem-plain"))
        }
        _ => Check::fail("qemu", format!("{version}, without the device ivshmem-plain"), FIX),
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kibibyte_less_than_a_gibibyte_of_memory_is_a_warning() {
        assert_eq!(memory("MemAvailable:    1048576 kB\n").verdict, Verdict::Ok);
        assert_eq!(memory("MemAvailable:    1048575 kB\n").verdict, Verdict::Warn);
    }

    #[test]
    fn a_kernel_without_huge_pages_says_how_to_go_on() {
        let check = hugepages(Path::new("/nonexistent"), 100);
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.fix.unwrap().contains("plain"));
    }

    #[test]
    fn one_huge_page_less_than_the_demo_takes_is_a_warning_that_says_how_many_to_reserve() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = |all: u64, free: u64| {
            std::fs::write(folder.path().join("nr_hugepages"), format!("{all}\n")).unwrap();
            std::fs::write(folder.path().join("free_hugepages"), format!("{free}\n")).unwrap();
            hugepages(folder.path(), 100)
        };
        assert_eq!(reserve(130, 100).verdict, Verdict::Ok);
        let short = reserve(130, 99);
        assert_eq!(short.found, "99 of 130 pages of 2 MiB free, the demo's switch takes 100");
        assert!(short.fix.unwrap().starts_with("reserve them: `echo 131 | sudo tee "));
    }

    #[test]
    fn the_demo_takes_pages_for_its_region_and_for_dpdk() {
        assert!((50..200).contains(&demo_hugepages()), "{}", demo_hugepages());
    }

    #[test]
    fn an_image_without_an_nf_is_named_with_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        for file in [KERNEL, INITRAMFS] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let of_manifest = |text: &str| {
            std::fs::write(folder.path().join(MANIFEST), text).unwrap();
            image_files(folder.path())
        };
        let all = PROGRAMS.map(|program| format!("\"{program}\":\"00\"")).join(",");
        assert_eq!(of_manifest(&format!("{{\"programs\":{{{all}}}}}")).verdict, Verdict::Ok);
        let lacking = of_manifest(&format!("{{\"programs\":{{{all}}}}}").replace("router", "routed"));
        assert_eq!(lacking.verdict, Verdict::Warn);
        assert!(lacking.found.ends_with(", without router"), "{}", lacking.found);
        let unknown = of_manifest("{}");
        assert_eq!(unknown.verdict, Verdict::Ok);
        assert!(unknown.found.ends_with("not known"), "{}", unknown.found);
    }

    #[test]
    fn several_nodes_are_named() {
        assert_eq!(numa("0\n").verdict, Verdict::Ok);
        assert_eq!(numa("0-1\n").found, "nodes 0-1");
    }

    #[test]
    fn isolated_cpus_are_named() {
        assert_eq!(isolation("\n").verdict, Verdict::Warn);
        assert_eq!(isolation("2-3\n").found, "CPUs 2-3");
    }
}
