//! Looks at CPUs and port devices before DPDK does, whose own refusals name neither the port nor the fix.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::thread::CpuSet;

/// Drivers under which DPDK can take a PCI device: the generic ones, and those that share it with the kernel.
const PCI_DRIVERS: [&str; 6] =
    ["vfio-pci", "igb_uio", "uio_pci_generic", "mlx4_core", "mlx5_core", "uio_hv_generic"];

/// Why a CPU cannot become an lcore, or a device a port.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// No such CPU, or it is kept from this process.
    #[error(
        "switch.lcores: this process may not run on CPU {cpu}, only on: {allowed}; correct lcores, or what keeps \
         it from that CPU (taskset, cgroup)"
    )]
    NoCpu {
        /// The CPU in the config.
        cpu: usize,
        /// Those that it may run on.
        allowed: String,
    },
    /// No such PCI device.
    #[error(
        "port {port}: no PCI device {address}; network devices here: {present}; correct `device` of the port"
    )]
    NoPciDevice {
        /// The port.
        port: String,
        /// The address in the config.
        address: String,
        /// Addresses of network devices.
        present: String,
    },
    /// The kernel has the device.
    #[error(
        "port {port}: PCI device {address} is bound to {driver}, DPDK needs vfio-pci; \
         bind it with `dpdk-devbind.py -b vfio-pci {address}`"
    )]
    PciDriver {
        /// The port.
        port: String,
        /// The address.
        address: String,
        /// The driver that has it.
        driver: String,
    },
    /// No such interface in our namespace.
    #[error(
        "port {port}: no network interface {iface} in this network namespace, there are: {present}; \
         create it, start the switch in its namespace, or correct `device` of the port"
    )]
    NoInterface {
        /// The port.
        port: String,
        /// The interface in the config.
        iface: String,
        /// Those that are there.
        present: String,
    },
    /// No interface is named.
    #[error(
        "port {port}: net_af_packet needs to know its network interface; write `device` as {device},iface=NAME"
    )]
    NoIface {
        /// The port.
        port: String,
        /// The device without its arguments.
        device: String,
    },
    /// No capture to play.
    #[error("port {port}: no capture file {}; correct rx_pcap= in `device` of the port", file.display())]
    NoCapture {
        /// The port.
        port: String,
        /// The file in the config.
        file: PathBuf,
    },
}

/// What a `device` of the config names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// Hardware.
    Pci {
        /// Its address, `domain:bus:device.function`.
        address: String,
    },
    /// A virtual device of DPDK.
    Virtual {
        /// The driver: the name without its number.
        driver: String,
        /// Its `key=value` arguments.
        arguments: Vec<(String, String)>,
    },
}

impl Device {
    /// Takes a `device` apart.
    #[must_use]
    pub fn parse(device: &str) -> Self {
        let mut words = device.split(',');
        let name = words.next().unwrap_or_default();
        if is_pci_address(name) {
            let address =
                if name.len() == "00:00.0".len() { format!("0000:{name}") } else { name.to_owned() };
            return Self::Pci { address };
        }
        let arguments = words
            .filter_map(|word| word.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        Self::Virtual { driver: name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(), arguments }
    }

    fn argument(&self, key: &str) -> Option<&str> {
        match self {
            Self::Virtual { arguments, .. } => {
                arguments.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
            }
            Self::Pci { .. } => None,
        }
    }

    /// What of this machine the device takes for itself, as a file name: two switches must not both have it.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        match self {
            Self::Pci { address } => Some(format!("pci-{address}")),
            Self::Virtual { driver, .. } if driver == "net_af_packet" || driver == "net_tap" => {
                let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino());
                let iface = self.argument("iface")?;
                (!iface.contains('/')).then(|| format!("iface-{namespace}-{iface}"))
            }
            Self::Virtual { .. } => None,
        }
    }

    /// Checks that the device is there and free for DPDK.
    ///
    /// # Errors
    /// Naming what is missing and what there is instead.
    pub fn check(&self, port: &str) -> Result<(), PreflightError> {
        match self {
            Self::Pci { address } => check_pci(port, address, Path::new("/sys/bus/pci/devices")),
            Self::Virtual { driver, .. } if driver == "net_af_packet" => {
                let Some(iface) = self.argument("iface") else {
                    return Err(PreflightError::NoIface {
                        port: port.to_owned(),
                        device: format!("{driver}0"),
                    });
                };
                let listed = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
                check_interface(port, iface, &listed)
            }
            Self::Virtual { .. } => match self.argument("rx_pcap").map(PathBuf::from) {
                Some(file) if !file.is_file() => {
                    Err(PreflightError::NoCapture { port: port.to_owned(), file })
                }
                _ => Ok(()),
            },
        }
    }
}

/// Checks that this process may run on the CPU of an lcore.
///
/// # Errors
/// Naming the CPUs that it may run on.
pub fn check_cpu(cpu: usize, allowed: &CpuSet) -> Result<(), PreflightError> {
    if cpu < CpuSet::MAX_CPU && allowed.is_set(cpu) {
        return Ok(());
    }
    let numbers = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).map(|cpu| cpu.to_string());
    Err(PreflightError::NoCpu { cpu, allowed: or_none(numbers.collect()) })
}

fn is_pci_address(name: &str) -> bool {
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    let parts: Vec<&str> = name.split(':').collect();
    let (domain, bus, slot) = match parts[..] {
        [domain, bus, slot] => (domain, bus, slot),
        [bus, slot] => ("0000", bus, slot),
        _ => return false,
    };
    let Some((device, function)) = slot.split_once('.') else { return false };
    hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
}

fn check_pci(port: &str, address: &str, devices: &Path) -> Result<(), PreflightError> {
    let device = devices.join(address);
    if !device.exists() {
        return Err(PreflightError::NoPciDevice {
            port: port.to_owned(),
            address: address.to_owned(),
            present: or_none(network_devices(devices)),
        });
    }
    let driver = fs::read_link(device.join("driver"))
        .ok()
        .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    match driver {
        Some(driver) if PCI_DRIVERS.contains(&driver.as_str()) => Ok(()),
        other => Err(PreflightError::PciDriver {
            port: port.to_owned(),
            address: address.to_owned(),
            driver: other.unwrap_or_else(|| "no driver".to_owned()),
        }),
    }
}

/// Addresses of the PCI devices of class 02, network controllers.
fn network_devices(devices: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(devices)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|device| fs::read_to_string(device.path().join("class")).is_ok_and(|c| c.starts_with("0x02")))
        .map(|device| device.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

fn check_interface(port: &str, iface: &str, listed: &str) -> Result<(), PreflightError> {
    // Two lines of heading, then `name: counters`.
    let present: Vec<String> = listed
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect();
    if present.iter().any(|name| name == iface) {
        return Ok(());
    }
    Err(PreflightError::NoInterface {
        port: port.to_owned(),
        iface: iface.to_owned(),
        present: or_none(present),
    })
}

fn or_none(names: Vec<String>) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_hardware_from_virtual_devices() {
        let pci = Device::Pci { address: "0000:01:00.0".to_owned() };
        assert_eq!(Device::parse("0000:01:00.0"), pci);
        assert_eq!(Device::parse("01:00.0,mprq_en=1"), pci);
        assert!(matches!(Device::parse("net_null0"), Device::Virtual { driver, .. } if driver == "net_null"));
        assert_eq!(Device::parse("net_af_packet0,iface=eth0").argument("iface"), Some("eth0"));
    }

    #[test]
    fn a_missing_pci_device_is_named_with_those_that_are_there() {
        let text = check_pci("uplink", "0000:99:00.0", Path::new("/nonexistent")).unwrap_err().to_string();
        assert_eq!(
            text,
            "port uplink: no PCI device 0000:99:00.0; network devices here: none; correct `device` of the port"
        );
    }

    #[test]
    fn a_cpu_out_of_reach_is_named_with_those_in_reach() {
        let mut allowed = CpuSet::new();
        allowed.set(0);
        allowed.set(2);
        assert_eq!(check_cpu(2, &allowed), Ok(()));
        for cpu in [1, CpuSet::MAX_CPU] {
            let text = check_cpu(cpu, &allowed).unwrap_err().to_string();
            assert!(text.contains(&format!("on CPU {cpu}, only on: 0, 2;")), "{text}");
        }
    }

    #[test]
    fn a_packet_socket_needs_an_interface() {
        let text = Device::parse("net_af_packet3,ifcae=eth0").check("client").unwrap_err().to_string();
        assert!(text.starts_with("port client: net_af_packet needs"), "{text}");
    }

    #[test]
    fn a_missing_interface_is_named_with_those_that_are_there() {
        let listed = "Inter-|\n face |bytes\n    lo: 0 0\n  eth0: 1 2\n";
        assert_eq!(check_interface("client", "eth0", listed), Ok(()));
        let text = check_interface("client", "eth", listed).unwrap_err().to_string();
        assert!(text.starts_with(
            "port client: no network interface eth in this network namespace, there are: lo, eth0;"
        ));
    }

    #[test]
    fn virtual_devices_without_a_part_of_this_machine_are_nobodys() {
        assert_eq!(Device::parse("net_null0").identity(), None);
        assert!(Device::parse("net_af_packet7,iface=eth0").identity().unwrap().ends_with("-eth0"));
        assert_eq!(Device::parse("net_af_packet7,iface=../x").identity(), None);
    }
}
