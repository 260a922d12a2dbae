//! What an operator may not add to QEMU's command line, and what to say of what they do.

/// An option in `qemu_extra` that would break a promise of the switch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("qemu_extra has {option}: {why}")]
pub struct ExtraError {
    /// The option as given.
    pub option: String,
    /// What it would break.
    pub why: &'static str,
}

/// Options that are refused, without their dash, and why.
const REFUSED: &[(&str, &str)] = &[
    ("incoming", MIGRATION),
    ("loadvm", MIGRATION),
    ("snapshot", "a restored guest would write to packet memory of an earlier time"),
    ("daemonize", "the switch takes the end of the process it started for the end of the VM"),
    ("sandbox", "the sandbox is set already; a second one would weaken it"),
    ("runas", "the user is set by the launcher, together with the sandbox rule that it needs"),
    ("readconfig", "what a file adds cannot be checked; give its settings as options"),
    ("accel", "the accelerator is chosen by trial; `netvm doctor` says which and why"),
    ("enable-kvm", "the accelerator is chosen by trial; `netvm doctor` says which and why"),
    ("kernel", "set kernel in the config"),
    ("initrd", "set initramfs in the config"),
    ("append", "the guest's command line carries what the host's watch depends on"),
    ("m", "set memory_mib in the config"),
    ("smp", "set vcpus in the config"),
    ("name", "the name is the VM's name in the config"),
];

const MIGRATION: &str = "a VM that maps packet memory (ivshmem) cannot be migrated or restored: \
                         its memory lives on this host; boot it anew instead";

/// Options whose value may be a monitor or debugger for others to connect to.
const DOORS: &[&str] = &["monitor", "qmp", "qmp-pretty", "gdb", "chardev", "serial", "mon"];

/// Refuses what would break a promise.
///
/// # Errors
/// The first such option.
pub fn check(extra: &[String]) -> Result<(), ExtraError> {
    for (index, word) in extra.iter().enumerate() {
        let Some(option) = option_name(word) else { continue };
        let refuse = |why| Err(ExtraError { option: word.clone(), why });
        if let Some(&(_, why)) = REFUSED.iter().find(|&&(refused, _)| refused == option) {
            return refuse(why);
        }
        let value = extra.get(index + 1).map_or("", String::as_str);
        let is_network = |value: &str| {
            ["tcp:", "telnet:", "websocket:"].iter().any(|kind| value.starts_with(kind))
                || (value.starts_with("socket,") && value.contains("port="))
        };
        if option == "s" || (DOORS.contains(&option) && is_network(value)) {
            return refuse("it opens QEMU to the network; use a Unix socket");
        }
        if value.contains("share=off") && value.contains("id=netvm") {
            return refuse("with share=off the guest sees a private copy, and packets silently go nowhere");
        }
    }
    Ok(())
}

/// What an operator should know of options that are allowed.
#[must_use]
pub fn notes(extra: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    if extra.iter().any(|word| word.contains("vhost-user")) {
        notes.push(
            "qemu_extra has a vhost-user device: QEMU hands that device's process all memory of the VM, \
             the packet memory of its whole domain included"
                .to_owned(),
        );
    }
    notes
}

/// `-foo` and `--foo` are the same option to QEMU.
fn option_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix('-')?;
    Some(name.strip_prefix('-').unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn refuses_what_breaks_a_promise() {
        for text in [
            "-incoming tcp:0:4444",
            "--incoming defer",
            "-daemonize",
            "-sandbox off",
            "-monitor tcp:0.0.0.0:4444",
            "-chardev socket,id=m,port=44,host=0",
            "-gdb tcp::1234",
            "-s",
            "-device x -m 4G",
        ] {
            assert!(check(&words(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn takes_devices_and_unix_sockets() {
        for text in [
            "-device virtio-net-pci,netdev=n -netdev user,id=n",
            "-monitor unix:/run/m.sock,server=on,wait=off",
            "-chardev socket,id=c,path=/run/c.sock",
        ] {
            assert_eq!(check(&words(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn migration_is_refused_with_the_reason() {
        let text = check(&words("-incoming defer")).unwrap_err().to_string();
        assert!(text.starts_with("qemu_extra has -incoming: a VM that maps packet memory"), "{text}");
    }

    #[test]
    fn a_foreign_vhost_user_device_is_said() {
        assert_eq!(notes(&words("-device vhost-user-fs-pci,chardev=c")).len(), 1);
        assert_eq!(notes(&words("-device virtio-rng-pci")).len(), 0);
    }
}
