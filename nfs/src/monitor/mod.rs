//! Counts traffic by flow and by protocol, in a table that no traffic can make larger than its limit.

mod report;

use std::collections::HashMap;
use std::time::Duration;

use packet::{FlowKey, Network, NotAFlow, Parsed};

pub use report::{Protocol, Report, Talker};

/// Most flows that are told apart unless the caller says otherwise.
pub const FLOWS_MAX_DEFAULT: usize = 4096;
/// How long a flow without packets keeps its place.
pub const FLOW_IDLE: Duration = Duration::from_secs(30);

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, frame_bytes: usize) {
        self.packets += 1;
        self.bytes += frame_bytes as u64;
    }

    fn since(self, before: Self) -> Self {
        Self { packets: self.packets - before.packets, bytes: self.bytes - before.bytes }
    }
}

/// What a packet is counted under: a protocol, or why it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Tcp,
    Udp,
    Icmp,
    Sctp,
    OtherIp,
    Arp,
    OtherEthertype,
    Fragment,
    ExtensionHeader,
    Tunnel,
    Encapsulated,
    Truncated,
    Malformed,
}

const CLASSES: [(Class, &str); 13] = [
    (Class::Tcp, "tcp"),
    (Class::Udp, "udp"),
    (Class::Icmp, "icmp"),
    (Class::Sctp, "sctp"),
    (Class::OtherIp, "other_ip"),
    (Class::Arp, "arp"),
    (Class::OtherEthertype, "other_ethertype"),
    (Class::Fragment, "fragment"),
    (Class::ExtensionHeader, "extension_header"),
    (Class::Tunnel, "tunnel"),
    (Class::Encapsulated, "encapsulated"),
    (Class::Truncated, "truncated"),
    (Class::Malformed, "malformed"),
];

impl Class {
    fn of(parsed: &Parsed, key: &Result<FlowKey, NotAFlow>) -> Self {
        match key {
            Ok(key) => match key.protocol {
                1 | 58 => Self::Icmp,
                6 => Self::Tcp,
                17 => Self::Udp,
                132 => Self::Sctp,
                _ => Self::OtherIp,
            },
            Err(NotAFlow::NotIp) => match parsed.network {
                Network::NotIp { ethertype: packet::parse::ETHERTYPE_ARP } => Self::Arp,
                _ => Self::OtherEthertype,
            },
            Err(NotAFlow::Fragment) => Self::Fragment,
            Err(NotAFlow::Ipv6Extension) => Self::ExtensionHeader,
            Err(NotAFlow::Tunnel) => Self::Tunnel,
            Err(NotAFlow::Encapsulated) => Self::Encapsulated,
            Err(NotAFlow::Truncated) => Self::Truncated,
            Err(NotAFlow::Malformed) => Self::Malformed,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    amount: Amount,
    /// Its amount at the last report.
    reported: Amount,
    seen_at: Duration,
}

/// Counts packets.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// Both directions of a flow count as one, under the end that sorts first.
    flows: HashMap<FlowKey, Flow>,
    flows_max: usize,
    total: Amount,
    /// Packets of flows that found no place in the table.
    untracked: Amount,
    /// Views that had ended before they were looked at.
    expired: u64,
    classes: [Amount; CLASSES.len()],
    reported: Amount,
    reported_at: Duration,
}

impl Monitor {
    /// A monitor that tells at most `flows_max` flows apart.
    #[must_use]
    pub fn new(flows_max: usize) -> Self {
        Self {
            flows: HashMap::new(),
            flows_max,
            total: Amount::default(),
            untracked: Amount::default(),
            expired: 0,
            classes: [Amount::default(); CLASSES.len()],
            reported: Amount::default(),
            reported_at: Duration::ZERO,
        }
    }

    /// Counts one frame by a copy of its first bytes; `frame_bytes` is how long the whole frame is.
    pub fn count(&mut self, headers: &[u8], frame_bytes: usize, now: Duration) {
        let parsed = packet::parse(headers, frame_bytes);
        let key = parsed.flow_key();
        self.total.add(frame_bytes);
        let class = Class::of(&parsed, &key);
        self.classes[class as usize].add(frame_bytes);
        if let Ok(key) = key {
            self.count_flow(key.direction_free(), frame_bytes, now);
        }
    }

    /// Counts a view that had ended before it was looked at: nothing is known of its packet.
    pub fn count_expired(&mut self) {
        self.expired += 1;
    }

    fn count_flow(&mut self, key: FlowKey, frame_bytes: usize, now: Duration) {
        let has_room = self.flows.len() < self.flows_max;
        let flow = match self.flows.get_mut(&key) {
            Some(flow) => flow,
            None if has_room => self.flows.entry(key).or_insert(Flow {
                amount: Amount::default(),
                reported: Amount::default(),
                seen_at: now,
            }),
            None => return self.untracked.add(frame_bytes),
        };
        flow.amount.add(frame_bytes);
        flow.seen_at = now;
    }

    /// Packets and bytes in all.
    #[must_use]
    pub fn total(&self) -> Amount {
        self.total
    }

    /// The eight numbers that the switch shows for a monitor: packets and bytes in all, flows in the table,
    /// packets without a place there; then packets of TCP, UDP and ICMP, and those without a flow.
    ///
    /// The number of flows may shrink, and counters only grow: it is shown as the most there were.
    #[must_use]
    pub fn shown(&self, flows_most: usize) -> [u64; 8] {
        let of = |class: Class| self.classes[class as usize].packets;
        let flowless = CLASSES.iter().skip(Class::Arp as usize).map(|(class, _)| of(*class)).sum();
        [
            self.total.packets,
            self.total.bytes,
            flows_most as u64,
            self.untracked.packets,
            of(Class::Tcp),
            of(Class::Udp),
            of(Class::Icmp),
            flowless,
        ]
    }

    /// Flows in the table.
    #[must_use]
    pub fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// Says what was seen since the last report, and lets go of flows that have been idle.
    pub fn report(&mut self, now: Duration, talkers_max: usize) -> Report {
        let mut talkers: Vec<(FlowKey, Amount)> =
            self.flows.iter().map(|(key, flow)| (*key, flow.amount.since(flow.reported))).collect();
        talkers.retain(|(_, amount)| amount.packets > 0);
        // Most bytes first; the key makes the order of equals always the same.
        talkers.sort_by_key(|(key, amount)| (std::cmp::Reverse(amount.bytes), *key));
        talkers.truncate(talkers_max);
        let report = Report {
            seconds: now.as_secs_f64(),
            interval_seconds: now.saturating_sub(self.reported_at).as_secs_f64(),
            packets: self.total.packets,
            bytes: self.total.bytes,
            interval: self.total.since(self.reported),
            flows: self.flows.len(),
            untracked_packets: self.untracked.packets,
            expired_views: self.expired,
            protocols: CLASSES
                .iter()
                .zip(self.classes)
                .filter(|(_, amount)| amount.packets > 0)
                .map(|((_, name), amount)| (*name, amount))
                .collect(),
            top: talkers.into_iter().map(Talker::from).collect(),
        };
        self.reported = self.total;
        self.reported_at = now;
        self.flows.retain(|_, flow| {
            flow.reported = flow.amount;
            now.saturating_sub(flow.seen_at) < FLOW_IDLE
        });
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn udp(source: u8, source_port: u16, destination: u8, destination_port: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, source, 10, 0, 0, destination]);
        frame.extend(source_port.to_be_bytes());
        frame.extend(destination_port.to_be_bytes());
        frame.extend([0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    fn count(monitor: &mut Monitor, frame: &[u8], now: Duration) {
        monitor.count(frame, frame.len(), now);
    }

    #[test]
    fn both_directions_are_one_flow() {
        let mut monitor = Monitor::new(10);
        count(&mut monitor, &udp(1, 1000, 2, 53), at(0));
        count(&mut monitor, &udp(2, 53, 1, 1000), at(0));
        let report = monitor.report(at(1), 5);
        assert_eq!((report.flows, report.packets, report.bytes), (1, 2, 92));
        assert_eq!(report.top[0].amount, Amount { packets: 2, bytes: 92 });
        assert_eq!(report.top[0].protocol, Protocol::Udp);
    }

    #[test]
    fn a_full_table_counts_the_flow_too_many_as_untracked_and_the_known_ones_on() {
        let mut monitor = Monitor::new(2);
        for port in [1, 2, 3, 1] {
            count(&mut monitor, &udp(1, port, 2, 53), at(0));
        }
        let report = monitor.report(at(1), 5);
        assert_eq!((report.flows, report.untracked_packets, report.packets), (2, 1, 4));
        assert_eq!(report.top[0].amount.packets, 2);
    }

    #[test]
    fn an_idle_flow_loses_its_place() {
        let mut monitor = Monitor::new(1);
        count(&mut monitor, &udp(1, 1, 2, 53), at(0));
        monitor.report(at(29), 5);
        assert_eq!(monitor.flow_count(), 1);
        monitor.report(at(30), 5);
        assert_eq!(monitor.flow_count(), 0);
        count(&mut monitor, &udp(1, 2, 2, 53), at(31));
        assert_eq!(monitor.report(at(32), 5).untracked_packets, 0);
    }

    #[test]
    fn top_talkers_are_those_of_the_interval_and_no_more_than_asked_for() {
        let mut monitor = Monitor::new(10);
        for _ in 0..5 {
            count(&mut monitor, &udp(1, 1, 2, 53), at(0));
        }
        monitor.report(at(1), 2);
        for port in [2, 3, 3, 4] {
            count(&mut monitor, &udp(1, port, 2, 53), at(1));
        }
        let report = monitor.report(at(2), 2);
        let shown: Vec<_> = report.top.iter().map(|talker| talker.amount.packets).collect();
        assert_eq!(shown, [2, 1]);
        assert_eq!((report.interval.packets, report.packets), (4, 9));
    }

    #[test]
    fn what_has_no_flow_is_counted_by_name() {
        let mut monitor = Monitor::new(10);
        let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0; 28]].concat();
        let mut fragment = udp(1, 1, 2, 53);
        fragment[14 + 7] = 1;
        for frame in [&arp[..], &fragment, &arp[..9]] {
            count(&mut monitor, frame, at(0));
        }
        let report = monitor.report(at(1), 5);
        let names: Vec<_> = report.protocols.keys().copied().collect();
        assert_eq!(names, ["arp", "fragment", "malformed"]);
        assert_eq!(report.flows, 0);
        assert_eq!(monitor.shown(0), [3, 97, 0, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn each_class_stands_at_its_own_place() {
        for (place, (class, _)) in CLASSES.iter().enumerate() {
            assert_eq!(*class as usize, place);
        }
    }

    #[test]
    fn a_report_is_one_line_of_json() {
        let mut monitor = Monitor::new(10);
        count(&mut monitor, &udp(1, 1000, 2, 53), at(0));
        let line = serde_json::to_string(&monitor.report(at(2), 5)).unwrap();
        assert_eq!(
            line,
            "{\"seconds\":2.0,\"interval_seconds\":2.0,\"packets\":1,\"bytes\":46,\
             \"interval\":{\"packets\":1,\"bytes\":46},\"flows\":1,\"untracked_packets\":0,\"expired_views\":0,\
             \"protocols\":{\"udp\":{\"packets\":1,\"bytes\":46}},\
             \"top\":[{\"a\":\"10.0.0.1:1000\",\"b\":\"10.0.0.2:53\",\"protocol\":\"udp\",\"packets\":1,\"bytes\":46}]}"
        );
    }
}
