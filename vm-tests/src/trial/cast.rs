//! Who takes part in the trial: the config, the hosts, the network functions, the attackers.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use lab::child::Child;
use lab::namespace::Namespace;
use lab::switch::Switch;

use super::Plan;
use crate::attacker::canary::Canary;
use crate::random::Random;
use crate::{Scene, config};

/// The domain of the attackers.
pub const ATTACKED: &str = "attacked";
/// The domain beside it.
pub const OTHER: &str = "other";
/// The process that attacks.
pub const PROCESS: &str = "bad";
/// VMs that nobody boots, whose NICs a hostile frontend attacks, with as many NICs.
pub const UNTRUSTED: [(&str, usize); 2] = [("bad-nics", 2), ("bad-files", 2)];
/// The VM that attacks.
pub const VM: &str = "bad-vm";
/// The network function of the other domain's chain.
pub const FORWARDER: &str = "fwd0";
/// The network function of the other domain that keeps a canary in all its memory.
pub const PLANTER: &str = "keeper";
/// Address of the other domain's server.
pub const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 1, 0, 3), 8080);

/// Secrets of the other domain, and one that is no secret to the attackers.
pub struct Canaries {
    /// A name in the config of the other domain, in its control areas and in the switch.
    pub names: Canary,
    /// In each full packet of the other domain.
    pub packets: Canary,
    /// In the other domain's region and control areas, and in the NF counters that the switch copies.
    pub words: Canary,
    /// In the ledger, where the other domain's buffers are.
    pub ledger: Canary,
    /// In the headers of the other domain's mbufs.
    pub mbufs: Canary,
    /// In packets of the attacked domain itself: who does not find this one finds nothing.
    pub own: Canary,
}

impl Canaries {
    /// Fresh ones.
    pub fn random(seed: u64) -> Self {
        let mut random = Random::seeded(seed ^ 0x6361_6e61_7279);
        let mut canary = |place| Canary::random(place, &mut random);
        Self {
            names: canary("names"),
            packets: canary("packets"),
            words: canary("words"),
            ledger: canary("ledger"),
            mbufs: canary("mbufs"),
            own: canary("own"),
        }
    }

    fn arguments(&self, plan: &Plan) -> Vec<String> {
        let kinds = plan.kinds();
        let only = kinds.iter().flat_map(|kind| ["--only".to_owned(), kind.name().to_owned()]);
        let edge = ["--edge-port".to_owned(), SERVER_PORT.to_string()];
        self.as_arguments().chain(only).chain(edge).collect()
    }

    fn as_arguments(&self) -> impl Iterator<Item = String> {
        let all = [&self.names, &self.packets, &self.words, &self.ledger, &self.mbufs, &self.own];
        all.into_iter().flat_map(|canary| ["--canary".to_owned(), canary.to_argument()])
    }
}

/// The hosts at the ports of the switch.
pub struct Hosts {
    /// Of the other domain.
    pub client: Namespace,
    /// Of the other domain.
    pub server: Namespace,
    /// Of the attacked domain.
    pub attacked: Namespace,
}

impl Hosts {
    /// Lays their cables.
    pub fn of(scene: &Scene) -> Self {
        let (client, server) = scene.introduced_hosts();
        let attacked = scene.host("a", "10.9.0.2/24", None);
        attacked.know("10.9.0.3", "02:00:00:00:09:03").expect("a neighbour");
        Self { client, server, attacked }
    }
}

/// Ports without end for the attackers, a cable to the host of their domain, two cables of the other domain.
const DOMAINS_AND_PORTS: &str = r#"
[switch]
name = "NAME"
lcores = [0]

[[domain]]
name = "attacked"
region_mib = 4
pages = "plain"

[[domain]]
name = "other"
region_mib = 4
pages = "plain"

[[port]]
name = "endless"
device = "net_null0"
domain = "attacked"
chain = "endless"
paced = true
rx_slots = 64
tx_slots = 64

[[port]]
name = "beacon"
device = "net_af_packet0,iface=IDa"
domain = "attacked"
chain = "beacon"
rx_slots = 64
tx_slots = 64

[[port]]
name = "client"
device = "net_af_packet1,iface=IDc"
domain = "other"
chain = "upstream"
rx_slots = 128
tx_slots = 128

[[port]]
name = "server"
device = "net_af_packet2,iface=IDs"
domain = "other"
chain = "downstream"
rx_slots = 128
tx_slots = 128
"#;

/// Position of domain "other" among the domains above.
pub const OTHER_DOMAIN: u16 = 1;

/// Position of port "server" among the ports below.
const SERVER_PORT: u16 = 3;

/// The only way into the other domain, see [`crate::attacker::edges`]; and who breaks a counter is let in again
/// soon, so that the attack goes on.
const EDGE: &str = r#"
[[edge]]
from = "attacked"
to = "other"
proto = "udp"
dst = "10.1.0.3/32"
dport = 7
limit_pps = 2000

[[policy]]
violation = "counter"
action = "detach"
threshold = 1
window_s = 10
detach_s = 1
"#;

/// A second port without end, for the VM.
const VM_PORT: &str = r#"
[[port]]
name = "endless-vm"
device = "net_null1"
domain = "attacked"
chain = "endless-vm"
paced = true
rx_slots = 64
tx_slots = 64
"#;

/// The config of the trial.
pub fn config(scene: &Scene, canaries: &Canaries, plan: &Plan) -> String {
    let secret = canaries.names.text();
    let mut parts = vec![
        DOMAINS_AND_PORTS.to_owned(),
        EDGE.to_owned(),
        config::service("attack", "may_target = [\"endless\", \"server\"]"),
        config::service(secret, ""),
        config::service("keep", ""),
        config::chain("endless", &["attack"], "endless"),
        config::chain("beacon", &["attack"], "endless"),
        config::chain("upstream", &[secret], "server"),
        config::chain("downstream", &[secret], "client"),
    ];
    if plan.vm {
        parts.push(VM_PORT.to_owned());
        parts.push(config::service("attack-vm", "may_target = [\"endless-vm\", \"server\"]"));
        parts.push(config::chain("endless-vm", &["attack-vm"], "endless-vm"));
        parts.push(vm(scene, canaries, plan));
    }
    parts.push(process(PROCESS, ATTACKED, "attack", 256));
    if plan.has_frontends() {
        parts.extend(UNTRUSTED.map(untrusted));
    }
    // Enough for what TCP sends while others have the processor.
    parts.push(process(FORWARDER, OTHER, secret, 512));
    parts.push(process(PLANTER, OTHER, "keep", 64));
    parts.concat()
}

fn process(name: &str, domain: &str, service: &str, quota: u32) -> String {
    format!(
        "\n[[process]]\nname = \"{name}\"\ndomain = \"{domain}\"\n[[process.endpoint]]\nservice = \"{service}\"\n\
         quota_buffers = {quota}\nring_slots = {}\n",
        2 * quota
    )
}

/// What a NIC of an untrusted VM is called as a port.
fn nic_port(vm: &str, number: usize) -> String {
    format!("{vm}.nic{number}")
}

/// An untrusted VM whose NICs send to one another, in a circle. The memory of one of them may be a file, which can
/// be truncated.
fn untrusted((vm, nics): (&str, usize)) -> String {
    let chain = |number: usize| format!("{vm}-{number}");
    let chains: String = (0..nics)
        .map(|number| config::chain(&chain(number), &[], &nic_port(vm, (number + 1) % nics)))
        .collect();
    let keys = "rx_slots = 256\ntx_slots = 256";
    let tables: String =
        (0..nics).map(|number| config::nic(&format!("nic{number}"), &chain(number), keys)).collect();
    let memory = if vm == UNTRUSTED[1].0 {
        "guest_memory = \"/dev/shm/never-made\"\naccept_unsealed_memory = true"
    } else {
        ""
    };
    let own = config::untrusted_vm(vm, memory, &tables)
        .replace("domain = \"blue\"", &format!("domain = \"{ATTACKED}\""));
    format!("{chains}{own}")
}

/// The attacker comes as a file of the VM, so that no image holds one.
fn vm(scene: &Scene, canaries: &Canaries, plan: &Plan) -> String {
    let program = scene.artifacts.static_program("attacker").display().to_string();
    let arguments = canaries.arguments(plan).join(" ");
    let (seconds, seed) = (plan.seconds, plan.seed ^ 0x766d);
    format!(
        "\n[[vm]]\nname = \"{VM}\"\ndomain = \"{ATTACKED}\"\nkernel = \"KERNEL\"\ninitramfs = \"INITRAMFS\"\n\
         memory_mib = 128\n[[vm.endpoint]]\nservice = \"attack-vm\"\nquota_buffers = 256\nring_slots = 512\n\
         nf = \"sh\"\nargs = [\"-c\", \"cp /etc/attacker /tmp/a; chmod +x /tmp/a; \
         exec /tmp/a --json --seconds {seconds} --seed {seed} {arguments}\"]\n\
         files = {{ \"/etc/attacker\" = \"{program}\" }}\n"
    )
}

/// Starts the network functions of the other domain.
pub fn functions(switch: &mut Switch, scene: &Scene, canaries: &Canaries, limit: Duration) -> [Child; 2] {
    let forwarder = switch.start_process(FORWARDER, "forwarder", &[]).expect("a forwarder");
    let mut command = attacker_command(scene, PLANTER);
    command.args(["--seconds", "100000", "--plant", &canaries.words.to_argument()]);
    let keeper = Child::spawn(PLANTER, command, &scene.dir, &scene.journal).expect("a keeper");
    switch.wait_attached(&[FORWARDER, PLANTER], limit).unwrap_or_else(|err| panic!("{err}"));
    [forwarder, keeper]
}

/// Starts the process that attacks.
pub fn attacker(scene: &Scene, canaries: &Canaries, plan: &Plan) -> Child {
    let mut command = attacker_command(scene, PROCESS);
    command.args(["--json", "--seconds", &plan.seconds.to_string(), "--seed", &plan.seed.to_string()]);
    command.args(canaries.arguments(plan));
    Child::spawn(PROCESS, command, &scene.dir, &scene.journal).expect("an attacker")
}

/// Starts the frontends that attack, if the plan has some.
pub fn frontends(scene: &Scene, canaries: &Canaries, plan: &Plan) -> Option<Child> {
    let mut command = Command::new(scene.artifacts.static_program("attacker"));
    command.args(["--json", "--seconds", &plan.seconds.to_string(), "--seed", &plan.seed.to_string()]);
    command.args(canaries.as_arguments());
    let folder = format!("/run/netvm/{}.nics", scene.switch_name());
    for (vm, nics) in UNTRUSTED {
        for number in 0..nics {
            command.arg("--nic").arg(format!("{folder}/{}.sock", nic_port(vm, number)));
        }
    }
    command.args(plan.tricks.iter().flat_map(|trick| ["--trick", trick.name()]));
    let start = || Child::spawn("frontends", command, &scene.dir, &scene.journal).expect("frontends");
    plan.has_frontends().then(start)
}

fn attacker_command(scene: &Scene, name: &str) -> Command {
    let socket = format!("/run/netvm/{}/endpoint.sock", scene.switch_name());
    let mut command = Command::new(scene.artifacts.static_program("attacker"));
    command.args(["--socket", &socket, "--name", name]);
    command
}

/// Boots the VM that attacks; it begins at once.
pub fn boot(switch: &mut Switch, _scene: &Scene, limit: Duration) -> Child {
    let child = switch.boot(VM).expect("a boot");
    let begun = |status: &lab::status::Status| status.endpoint_of(VM).is_some_and(|vm| vm.epoch > 0);
    switch.wait_for("the VM to attack", limit, begun).unwrap_or_else(|err| panic!("{err}"));
    child
}
