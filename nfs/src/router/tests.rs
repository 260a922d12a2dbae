//! Real frames through the router, with exits and buffers that a test can look into.

use packet::icmp::{DESTINATION_UNREACHABLE, TIME_EXCEEDED};
use packet::ipv4::Ipv4Header;
use proptest::prelude::*;

use super::neighbour::ASK_AGAIN;
use super::waiting::HELD_PER_NEIGHBOUR_MAX;
use super::*;

const FILE: &str = r#"
[[interface]]
port = "client"
address = "10.1.0.1/24"
mac = "02:00:00:00:01:01"

[[interface]]
port = "server"
address = "10.2.0.1/24"
mac = "02:00:00:00:02:01"
mtu_bytes = 1000

[[route]]
prefix = "10.9.0.0/16"
via = "10.2.0.9"

[[neighbour]]
address = "10.2.0.2"
mac = "02:00:00:00:02:02"
"#;

/// The switch's numbers of the ports; unlike the interface numbers, so that the two are not confused.
const PORTS: [u16; 2] = [7, 4];
const CLIENT: MacAddress = MacAddress([2, 0, 0, 0, 1, 2]);
const SERVER: MacAddress = MacAddress([2, 0, 0, 0, 2, 2]);
const OURS: [MacAddress; 2] = [MacAddress([2, 0, 0, 0, 1, 1]), MacAddress([2, 0, 0, 0, 2, 1])];
const HEADROOM: usize = 128;

/// A frame in a buffer as the switch lends it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    port: u16,
}

impl Buffer {
    fn new(port: u16, frame: &[u8]) -> Self {
        Self { bytes: [vec![0xee; HEADROOM], frame.to_vec()].concat(), start: HEADROOM, port }
    }
}

impl Frame for Buffer {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    fn ingress_port(&self) -> u16 {
        self.port
    }

    fn grow_front(&mut self, bytes: u16) -> bool {
        let start = self.start.checked_sub(usize::from(bytes));
        self.start = start.unwrap_or(self.start);
        start.is_some()
    }

    fn set_len(&mut self, len_bytes: usize) -> bool {
        // New bytes hold what an older packet left behind.
        self.bytes.resize(self.start + len_bytes, 0xdd);
        len_bytes <= 2048
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Exit {
    Next(Vec<u8>),
    Port(InterfaceIndex, Vec<u8>),
    Drop,
}

#[derive(Debug, Default)]
struct Ways {
    exits: Vec<Exit>,
    credit: usize,
}

impl Exits<Buffer> for Ways {
    fn next(&mut self, frame: Buffer) {
        self.exits.push(Exit::Next(frame.data().to_vec()));
    }

    fn to_port(&mut self, frame: Buffer, interface: InterfaceIndex) {
        self.exits.push(Exit::Port(interface, frame.data().to_vec()));
    }

    fn drop(&mut self, _frame: Buffer) {
        self.exits.push(Exit::Drop);
    }

    fn make(&mut self, bytes: &[u8]) -> Option<Buffer> {
        self.credit = self.credit.checked_sub(1)?;
        Some(Buffer::new(u16::MAX, bytes))
    }
}

/// A router with everything around it.
struct Bench {
    router: Router,
    waiting: Waiting<Buffer>,
    ways: Ways,
    now: Duration,
}

impl Bench {
    fn new(file: &str, credit: usize) -> Self {
        let settings = file::parse("r.toml", file).unwrap_or_else(|err| panic!("{err}"));
        Self {
            router: Router::new(settings, PORTS.to_vec()),
            waiting: Waiting::new(64),
            ways: Ways { exits: Vec::new(), credit },
            now: Duration::ZERO,
        }
    }

    /// Routes one frame and returns what left meanwhile.
    fn route(&mut self, ingress: InterfaceIndex, frame: &[u8]) -> Vec<Exit> {
        let buffer = Buffer::new(PORTS[ingress], frame);
        self.router.packet(buffer, self.now, &mut self.waiting, &mut self.ways);
        std::mem::take(&mut self.ways.exits)
    }

    fn tick(&mut self, later: Duration) -> Vec<Exit> {
        self.now += later;
        self.router.tick(self.now, &mut self.waiting, &mut self.ways);
        std::mem::take(&mut self.ways.exits)
    }

    fn count(&self, event: Event) -> u64 {
        self.router.counters().of(event)
    }
}

fn bench() -> Bench {
    Bench::new(FILE, 4)
}

fn frame_to(to: MacAddress, from: MacAddress, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14];
    EthernetHeader { destination: to, source: from, ethertype }.write(&mut frame).unwrap();
    frame.extend(payload);
    frame
}

struct Ip<'t> {
    source: &'t str,
    destination: &'t str,
    ttl: u8,
    protocol: u8,
    is_dont_fragment: bool,
}

/// From the client to somewhere else, 64 hops, UDP.
const UDP: Ip<'static> =
    Ip { source: "10.1.0.2", destination: "10.2.0.2", ttl: 64, protocol: 17, is_dont_fragment: false };

impl Ip<'_> {
    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        Ipv4Header {
            source: self.source.parse().unwrap(),
            destination: self.destination.parse().unwrap(),
            protocol: self.protocol,
            ttl: self.ttl,
            traffic_class: 0,
            identification: 0x1234,
            is_dont_fragment: self.is_dont_fragment,
            payload_bytes: u16::try_from(payload.len()).unwrap(),
        }
        .write(&mut packet)
        .unwrap();
        packet.extend(payload);
        packet
    }

    /// The packet in a frame from the client to the router.
    fn frame(&self, payload: &[u8]) -> Vec<u8> {
        frame_to(OURS[0], CLIENT, ETHERTYPE_IPV4, &self.packet(payload))
    }
}

fn udp_payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn arp(operation: ArpOperation, from: MacAddress, sender: &str, target: &str, to: MacAddress) -> Vec<u8> {
    let mut payload = vec![0; 46];
    Arp {
        operation,
        sender_mac: from,
        sender_ip: sender.parse().unwrap(),
        target_mac: MacAddress::default(),
        target_ip: target.parse().unwrap(),
    }
    .write(&mut payload)
    .unwrap();
    frame_to(to, from, ETHERTYPE_ARP, &payload)
}

/// Checks an ICMP error to the client byte by byte, and returns its type and code.
fn error_about(exit: &Exit, packet: &[u8]) -> (u8, u8) {
    let Exit::Port(0, frame) = exit else { panic!("not back to the client: {exit:?}") };
    let ethernet = Ethernet::parse(frame).unwrap();
    assert_eq!((ethernet.destination(), ethernet.source()), (CLIENT, OURS[0]));
    let ip = Ipv4::parse(ethernet.payload()).unwrap();
    assert!(ip.is_checksum_right());
    assert_eq!((ip.source(), ip.destination()), ("10.1.0.1".parse().unwrap(), "10.1.0.2".parse().unwrap()));
    assert_eq!((ip.protocol(), ip.ttl()), (1, 64));
    assert_eq!(packet::checksum::checksum(ip.payload()), 0, "the checksum of the message");
    assert_eq!(ip.total_bytes(), (28 + packet.len()).min(576));
    assert_eq!(frame.len(), 14 + ip.total_bytes(), "no bytes of an older packet");
    assert!(packet.starts_with(&ip.payload()[8..]), "the quotation is the start of the packet");
    (ip.payload()[0], ip.payload()[1])
}

#[test]
fn a_packet_goes_on_along_its_chain_with_new_addresses_and_one_hop_less() {
    let mut bench = bench();
    let exits = bench.route(0, &UDP.frame(b"payload"));
    let expected = frame_to(SERVER, OURS[1], ETHERTYPE_IPV4, &Ip { ttl: 63, ..UDP }.packet(b"payload"));
    assert_eq!(exits, [Exit::Next(expected)], "the checksum is that of a packet written anew");
    assert_eq!(bench.count(Event::Forwarded), 1);
}

#[test]
fn with_forward_port_it_leaves_by_the_port_of_its_route() {
    let mut bench = Bench::new(&format!("forward = \"port\"\n{FILE}"), 0);
    assert!(matches!(bench.route(0, &UDP.frame(b"x"))[..], [Exit::Port(1, _)]));
}

#[test]
fn a_packet_for_the_link_it_came_from_turns_back_by_its_port() {
    let mut bench = bench();
    let mut frame = Ip { source: "10.9.1.1", ..UDP }.packet(b"x");
    frame = frame_to(OURS[1], SERVER, ETHERTYPE_IPV4, &frame);
    assert!(matches!(bench.route(1, &frame)[..], [Exit::Port(1, _)]));
}

#[test]
fn padding_behind_the_packet_passes_as_it_is() {
    let mut frame = UDP.frame(b"x");
    frame.resize(60, 0xaa);
    let exits = bench().route(0, &frame);
    let [Exit::Next(out)] = &exits[..] else { panic!("{exits:?}") };
    assert_eq!(out[35..], frame[35..]);
}

#[test]
fn a_packet_on_its_last_hop_comes_back_as_time_exceeded() {
    for ttl in [0, 1] {
        let ip = Ip { ttl, ..UDP };
        let mut bench = bench();
        let exits = bench.route(0, &ip.frame(&udp_payload(100)));
        assert_eq!(error_about(&exits[0], &ip.packet(&udp_payload(100))), (TIME_EXCEEDED, 0));
        assert_eq!(bench.count(Event::TimeExceededSent), 1);
    }
    assert!(matches!(bench().route(0, &Ip { ttl: 2, ..UDP }.frame(b"x"))[..], [Exit::Next(_)]));
}

#[test]
fn a_packet_to_nowhere_comes_back_as_net_unreachable() {
    let ip = Ip { destination: "192.0.2.1", ..UDP };
    let exits = bench().route(0, &ip.frame(b"x"));
    assert_eq!(error_about(&exits[0], &ip.packet(b"x")), (DESTINATION_UNREACHABLE, 0));
}

#[test]
fn an_error_quotes_no_more_than_fits_into_576_bytes() {
    for payload_bytes in [519, 520, 521, 1480] {
        let ip = Ip { ttl: 1, ..UDP };
        let exits = bench().route(0, &ip.frame(&udp_payload(payload_bytes)));
        error_about(&exits[0], &ip.packet(&udp_payload(payload_bytes)));
    }
}

#[test]
fn a_packet_one_byte_too_long_is_reported_if_it_must_not_be_fragmented_and_dropped_otherwise() {
    let fits = udp_payload(980);
    let too_long = udp_payload(981);
    assert!(matches!(bench().route(0, &UDP.frame(&fits))[..], [Exit::Next(_)]));
    let whole = Ip { is_dont_fragment: true, ..UDP };
    let exits = bench().route(0, &whole.frame(&too_long));
    assert_eq!(error_about(&exits[0], &whole.packet(&too_long)), (DESTINATION_UNREACHABLE, 4));
    let Exit::Port(_, frame) = &exits[0] else { unreachable!("checked above") };
    assert_eq!(frame[14 + 20 + 6..][..2], 1000_u16.to_be_bytes(), "the MTU that would pass");
    let mut bench = bench();
    assert_eq!(bench.route(0, &UDP.frame(&too_long)), [Exit::Drop]);
    assert_eq!(bench.count(Event::TooBig), 1);
}

#[test]
fn no_error_is_sent_about_an_error_a_later_fragment_or_a_group() {
    let withheld = |frame: &[u8]| {
        let mut bench = bench();
        assert_eq!(bench.route(0, frame), [Exit::Drop]);
        bench.count(Event::ErrorWithheld)
    };
    let icmp = |kind| Ip { ttl: 1, protocol: 1, ..UDP }.frame(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    for kind in [3, 4, 5, 11, 12, 99] {
        assert_eq!(withheld(&icmp(kind)), 1, "type {kind}");
    }
    assert_eq!(withheld(&Ip { ttl: 1, protocol: 1, ..UDP }.frame(&[])), 1);
    assert!(matches!(bench().route(0, &icmp(8))[..], [Exit::Port(0, _)]), "echo requests are questions");
    let fragment = |place: u16| {
        let mut packet = Ip { ttl: 1, ..UDP }.packet(b"12345678");
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        Ipv4Mut::parse(&mut packet).unwrap().fill_checksum();
        frame_to(OURS[0], CLIENT, ETHERTYPE_IPV4, &packet)
    };
    assert_eq!(withheld(&fragment(1)), 1);
    assert!(matches!(bench().route(0, &fragment(0x2000))[..], [Exit::Port(0, _)]), "the first fragment");
}

#[test]
fn errors_are_limited_to_the_rate_of_the_file() {
    let mut bench = Bench::new(&format!("icmp_errors_per_second = 50\n{FILE}"), 0);
    let frame = Ip { ttl: 1, ..UDP }.frame(b"x");
    for _ in 0..20 {
        bench.route(0, &frame);
    }
    assert_eq!((bench.count(Event::TimeExceededSent), bench.count(Event::ErrorWithheld)), (5, 15));
    bench.now += Duration::from_millis(20);
    bench.route(0, &frame);
    bench.route(0, &frame);
    assert_eq!((bench.count(Event::TimeExceededSent), bench.count(Event::ErrorWithheld)), (6, 16));
}

#[test]
fn an_arp_request_for_our_address_is_answered_where_it_came_from() {
    let mut bench = bench();
    let request = arp(ArpOperation::Request, CLIENT, "10.1.0.2", "10.1.0.1", MacAddress::BROADCAST);
    let exits = bench.route(0, &request);
    let [Exit::Port(0, reply)] = &exits[..] else { panic!("{exits:?}") };
    assert_eq!(reply.len(), request.len());
    let ethernet = Ethernet::parse(reply).unwrap();
    assert_eq!((ethernet.destination(), ethernet.source()), (CLIENT, OURS[0]));
    let arp = Arp::read(ethernet.payload()).unwrap();
    assert_eq!((arp.operation, arp.sender_mac), (ArpOperation::Reply, OURS[0]));
    assert_eq!((arp.sender_ip, arp.target_mac), ("10.1.0.1".parse().unwrap(), CLIENT));
}

#[test]
fn arp_for_others_and_for_the_address_of_another_interface_gets_no_answer() {
    let mut bench = bench();
    for target in ["10.1.0.77", "10.2.0.1"] {
        let request = arp(ArpOperation::Request, CLIENT, "10.1.0.2", target, MacAddress::BROADCAST);
        assert_eq!(bench.route(0, &request), [Exit::Drop], "{target}");
    }
    let conflict = arp(ArpOperation::Request, CLIENT, "10.1.0.1", "10.1.0.1", MacAddress::BROADCAST);
    assert_eq!(bench.route(0, &conflict), [Exit::Drop]);
    assert_eq!((bench.count(Event::ArpRead), bench.count(Event::ArpConflict)), (2, 1));
}

#[test]
fn an_asker_is_known_so_that_its_answer_needs_no_question() {
    let mut bench = bench();
    bench.route(0, &arp(ArpOperation::Request, CLIENT, "10.1.0.2", "10.1.0.1", MacAddress::BROADCAST));
    let back = Ip { source: "10.2.0.2", destination: "10.1.0.2", ..UDP }.packet(b"x");
    let exits = bench.route(1, &frame_to(OURS[1], SERVER, ETHERTYPE_IPV4, &back));
    let [Exit::Next(out)] = &exits[..] else { panic!("{exits:?}") };
    assert_eq!(out[..12], [CLIENT.0, OURS[0].0].concat());
}

/// A packet for a neighbour that has to be asked for.
fn unresolved(last: u8) -> Vec<u8> {
    Ip { destination: "10.2.0.50", ..UDP }.frame(&[last; 40])
}

#[test]
fn packets_wait_for_their_neighbour_and_leave_in_order_when_it_answers() {
    let mut bench = bench();
    let exits = bench.route(0, &unresolved(0));
    let [Exit::Port(1, question)] = &exits[..] else { panic!("{exits:?}") };
    assert_eq!(question.len(), 60);
    let arp_asked = Arp::read(&question[14..]).unwrap();
    assert_eq!(arp_asked, Arp::request(OURS[1], "10.2.0.1".parse().unwrap(), "10.2.0.50".parse().unwrap()));
    for number in 1..HELD_PER_NEIGHBOUR_MAX {
        assert_eq!(bench.route(0, &unresolved(u8::try_from(number).unwrap())), [], "held, and nothing asked");
    }
    assert_eq!(bench.route(0, &unresolved(99)), [Exit::Drop], "one too many");
    assert_eq!(bench.count(Event::Unresolved), 1);

    let mac = MacAddress([2, 0, 0, 0, 2, 50]);
    let exits = bench.route(1, &arp(ArpOperation::Reply, mac, "10.2.0.50", "10.2.0.1", OURS[1]));
    assert_eq!(exits.len(), HELD_PER_NEIGHBOUR_MAX + 1);
    for (number, exit) in exits[..HELD_PER_NEIGHBOUR_MAX].iter().enumerate() {
        let Exit::Next(frame) = exit else { panic!("{exit:?}") };
        assert_eq!((&frame[..6], usize::from(frame[40])), (&mac.0[..], number));
    }
    assert_eq!(exits[HELD_PER_NEIGHBOUR_MAX], Exit::Drop, "the reply itself has been read");
    assert!(bench.waiting.is_empty());
}

#[test]
fn without_credit_the_packet_itself_becomes_the_question() {
    let mut bench = Bench::new(FILE, 0);
    let exits = bench.route(0, &unresolved(0));
    let [Exit::Port(1, question)] = &exits[..] else { panic!("{exits:?}") };
    assert_eq!(question[..], super::question(&bench.router.interfaces[1], "10.2.0.50".parse().unwrap())[..]);
    assert_eq!(bench.route(0, &unresolved(1)), [], "the second one waits");
    let exits = bench.tick(ASK_AGAIN);
    assert!(matches!(exits[..], [Exit::Port(1, _)]), "and asks when there is no answer: {exits:?}");
    assert_eq!(bench.count(Event::TurnedIntoArp), 2);
}

#[test]
fn a_neighbour_that_never_answers_is_reported_unreachable() {
    let mut bench = bench();
    bench.route(0, &unresolved(0));
    for _ in 0..2 {
        assert!(matches!(bench.tick(ASK_AGAIN)[..], [Exit::Port(1, _)]), "asked again");
    }
    let exits = bench.tick(ASK_AGAIN);
    let ip = Ip { destination: "10.2.0.50", ..UDP };
    assert_eq!(error_about(&exits[0], &ip.packet(&[0; 40])), (DESTINATION_UNREACHABLE, 1));
    assert_eq!((exits.len(), bench.count(Event::ArpAsked)), (1, 3));
}

#[test]
fn a_route_sends_to_its_gateway() {
    let mut bench = bench();
    bench.route(1, &arp(ArpOperation::Request, SERVER, "10.2.0.9", "10.2.0.1", MacAddress::BROADCAST));
    let exits = bench.route(0, &Ip { destination: "10.9.8.7", ..UDP }.frame(b"x"));
    let [Exit::Next(frame)] = &exits[..] else { panic!("{exits:?}") };
    assert_eq!(frame[..6], SERVER.0);
}

fn echo(destination: &str) -> Vec<u8> {
    let mut message = [&[8, 0, 0, 0, 0x12, 0x34, 0, 1][..], b"sixteen bytes..."].concat();
    let checksum = packet::checksum::checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ip { destination, protocol: 1, ttl: 1, ..UDP }.frame(&message)
}

#[test]
fn an_echo_request_to_any_of_our_addresses_is_answered_where_it_came_from() {
    for ours in ["10.1.0.1", "10.2.0.1"] {
        let exits = bench().route(0, &echo(ours));
        let [Exit::Port(0, frame)] = &exits[..] else { panic!("{exits:?}") };
        assert_eq!(frame[..12], [CLIENT.0, OURS[0].0].concat());
        let ip = Ipv4::parse(&frame[14..]).unwrap();
        assert!(ip.is_checksum_right());
        assert_eq!((ip.source(), ip.destination()), (ours.parse().unwrap(), "10.1.0.2".parse().unwrap()));
        assert_eq!((ip.ttl(), ip.payload()[0]), (64, 0));
        assert_eq!(packet::checksum::checksum(ip.payload()), 0);
        assert_eq!(ip.payload()[4..], echo(ours)[14 + 20 + 4..], "identifier, number and data come back");
    }
}

#[test]
fn other_packets_for_us_are_dropped_and_udp_is_reported() {
    let mut bench = bench();
    let tcp = Ip { destination: "10.1.0.1", protocol: 6, ..UDP };
    assert_eq!(bench.route(0, &tcp.frame(&[0; 20])), [Exit::Drop]);
    assert_eq!(bench.count(Event::ForUs), 1);
    let udp = Ip { destination: "10.1.0.1", ..UDP };
    let exits = bench.route(0, &udp.frame(&[0; 8]));
    assert_eq!(error_about(&exits[0], &udp.packet(&[0; 8])), (DESTINATION_UNREACHABLE, 3));
}

#[test]
fn what_cannot_be_routed_is_dropped_by_name() {
    let mut bench = bench();
    let mut bad_checksum = UDP.frame(b"x");
    bad_checksum[24] ^= 1;
    let ipv6 = frame_to(OURS[0], CLIENT, 0x86dd, &[0x60; 40]);
    let mut cut = UDP.frame(b"x");
    cut.truncate(30);
    for (frame, event) in [
        (frame_to(SERVER, CLIENT, ETHERTYPE_IPV4, &UDP.packet(b"x")), Event::NotForUs),
        (frame_to(MacAddress::BROADCAST, CLIENT, ETHERTYPE_IPV4, &UDP.packet(b"x")), Event::NotForUs),
        (ipv6, Event::NotIpv4),
        (bad_checksum, Event::BadChecksum),
        (cut, Event::Malformed),
        (vec![0; 13], Event::Malformed),
        (frame_to(MacAddress::BROADCAST, CLIENT, ETHERTYPE_ARP, &[0; 28]), Event::Malformed),
        (Ip { source: "127.0.0.1", ..UDP }.frame(b"x"), Event::Martian),
        (Ip { source: "224.0.0.1", ..UDP }.frame(b"x"), Event::Martian),
        (Ip { destination: "255.255.255.255", ..UDP }.frame(b"x"), Event::Martian),
        (Ip { destination: "10.2.0.255", ..UDP }.frame(b"x"), Event::Martian),
        (Ip { destination: "10.2.0.0", ..UDP }.frame(b"x"), Event::Martian),
    ] {
        let before = bench.count(event);
        assert_eq!(bench.route(0, &frame), [Exit::Drop], "{event:?}");
        assert_eq!(bench.count(event), before + 1, "{event:?}");
    }
    let buffer = Buffer::new(5, &UDP.frame(b"x"));
    bench.router.packet(buffer, bench.now, &mut bench.waiting, &mut bench.ways);
    assert_eq!(bench.count(Event::UnknownPort), 1);
}

fn findings(text: &str) -> String {
    file::parse("r.toml", text).unwrap_err().to_string()
}

const CLIENT_ONLY: &str =
    "[[interface]]\nport = \"client\"\naddress = \"10.1.0.1/24\"\nmac = \"02:00:00:00:01:01\"\n";

#[test]
fn a_bad_interface_is_refused_with_every_finding() {
    let text =
        "[[interface]]\nport = \"client\"\naddress = \"10.1.0.0/24\"\nmac = \"03:00:00:00:01:01\"\nmtu = 1\n";
    assert_eq!(
        findings(text),
        "r.toml:4:7: interface[client].mac must be the MAC address of one host, like \"02:00:00:00:01:01\", got \"03:00:00:00:01:01\"\n\
         r.toml:5:1: interface[client].mtu must be one of the keys port, address, mac, mtu_bytes, got mtu"
    );
    let text = CLIENT_ONLY.replace("10.1.0.1", "10.1.0.255");
    assert!(findings(&text).contains("address must not be the first or the last address of its prefix"));
    assert!(findings(&CLIENT_ONLY.replace("/24", "")).contains("with its prefix length"));
    assert!(findings("").contains("interface must be given at least once"));
}

#[test]
fn interfaces_that_clash_are_refused() {
    let twice = findings(&format!("{CLIENT_ONLY}{CLIENT_ONLY}"));
    for key in ["port must be unlike that", "mac must be unlike that", "address must lie on another link"] {
        assert!(twice.contains(key), "{key}: {twice}");
    }
}

#[test]
fn routes_and_neighbours_outside_every_link_are_refused() {
    let with = |text: &str| findings(&format!("{CLIENT_ONLY}{text}"));
    let rule = "must be the address of a neighbour";
    assert!(with("[[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"10.3.0.1\"\n").contains(rule));
    assert!(with("[[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"10.1.0.1\"\n").contains(rule), "ourselves");
    assert!(with("[[neighbour]]\naddress = \"10.3.0.1\"\nmac = \"02:00:00:00:01:09\"\n").contains(rule));
    let again = with("[[route]]\nprefix = \"10.1.0.0/24\"\nvia = \"10.1.0.9\"\n");
    assert!(again.contains("prefix must be unlike that of any other route or interface"), "{again}");
    assert!(with("[[route]]\nprefix = \"::/0\"\nvia = \"10.1.0.9\"\n").contains("must be an IPv4 prefix"));
}

#[test]
fn three_interfaces_need_forward_port() {
    let interface = |name: &str, number: u8| {
        CLIENT_ONLY
            .replace("client", name)
            .replace("10.1.", &format!("10.{number}."))
            .replace("01:01", &format!("01:0{number}"))
    };
    let three = ["a", "b", "c"].iter().zip(1..).map(|(name, number)| interface(name, number));
    let three = three.collect::<String>();
    assert!(findings(&three).contains("forward must be \"port\" with more than two interfaces"));
    assert!(file::parse("r.toml", &format!("forward = \"port\"\n{three}")).is_ok());
}

#[test]
fn the_example_of_the_demo_routes_between_its_two_links() {
    let text = include_str!("../../../security-domains/examples/router-routes.toml");
    let settings = file::parse("router-routes.toml", text).unwrap();
    let ports: Vec<_> = settings.interfaces.iter().map(|interface| interface.port.as_str()).collect();
    assert_eq!(ports, ["client", "server"]);
    let hop = |address: &str| settings.routes.look_up(address.parse().unwrap()).map(|hop| hop.interface);
    assert_eq!((hop("10.1.0.2"), hop("10.2.0.2"), hop("10.3.0.2")), (Some(0), Some(1), None));
}

/// Frames of all sorts: sound ones, ones with changed bytes, and noise.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let destination = prop_oneof![
        Just("10.2.0.2"),
        Just("10.2.0.50"),
        Just("10.1.0.1"),
        Just("10.1.0.77"),
        Just("192.0.2.1")
    ];
    let routed = (destination, 0..4_u8, prop_oneof![Just(1_u8), Just(6), Just(17)], 0..1400_usize).prop_map(
        |(destination, ttl, protocol, bytes)| {
            Ip { destination, ttl, protocol, ..UDP }.frame(&udp_payload(bytes))
        },
    );
    let asked = prop_oneof![
        Just(arp(ArpOperation::Request, CLIENT, "10.1.0.2", "10.1.0.1", MacAddress::BROADCAST)),
        Just(arp(ArpOperation::Reply, SERVER, "10.1.0.77", "10.1.0.1", OURS[0])),
        Just(echo("10.1.0.1")),
    ];
    let changes = proptest::collection::vec((0..60_usize, any::<u8>()), 0..3);
    let changed = (prop_oneof![routed, asked], changes).prop_map(|(mut frame, changes)| {
        for (at, byte) in changes {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame
    });
    prop_oneof![9 => changed, 1 => proptest::collection::vec(any::<u8>(), 0..100)]
}

proptest! {
    #[test]
    fn every_packet_is_settled_once_or_held(
        packets in proptest::collection::vec((frames(), 0..2_usize, 0..400_u64), 1..60),
        credit in 0..5_usize,
    ) {
        let mut bench = Bench::new(FILE, credit);
        let (mut routed, mut left) = (0, 0);
        for (frame, ingress, millis) in packets {
            left += bench.tick(Duration::from_millis(millis)).len();
            left += bench.route(ingress, &frame).len();
            routed += 1;
        }
        let counters = bench.router.counters();
        let made = usize::try_from(counters.of(Event::ArpAsked)).unwrap();
        prop_assert_eq!(left + bench.waiting.len(), routed + made);
        prop_assert_eq!(counters.settled(), (left - made) as u64);
        prop_assert_eq!(counters.shown().iter().sum::<u64>(), counters.settled() + made as u64);
    }

    #[test]
    fn what_is_forwarded_has_a_sound_header_and_one_hop_less(frame in frames()) {
        let exits = bench().route(0, &frame);
        if let [Exit::Next(out)] = &exits[..] {
            let (before, after) = (Ipv4::parse(&frame[14..]).unwrap(), Ipv4::parse(&out[14..]).unwrap());
            prop_assert!(after.is_checksum_right());
            prop_assert_eq!(after.ttl() + 1, before.ttl());
            prop_assert_eq!(after.payload(), before.payload());
            prop_assert_eq!(out.len(), frame.len());
        }
    }
}
