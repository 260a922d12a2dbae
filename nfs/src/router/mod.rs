//! An IPv4 router (RFC 1812): forwards by the longest prefix, answers for its own addresses, and reports what
//! it cannot forward.
//!
//! # Which way a packet leaves
//!
//! A packet that is *forwarded* leaves its interface's port for another one. By default it takes the verdict
//! `next`: it goes on along its chain, so that a service behind the router (the firewall of the way back, say)
//! sees it too. That is right where each chain leads to the one other interface. With three interfaces or more
//! the chain cannot know the route; `forward = "port"` sends each packet straight to its egress port.
//!
//! A packet that *turns back* (an ARP reply, an echo reply, an ICMP error) goes to the port it came from, and so
//! does a packet that is forwarded out of the interface it came in by. ARP requests go to the port of the
//! interface they ask on. The service needs the right to name these ports: `may_target` in the switch's config.
//!
//! # Next hops
//!
//! MAC addresses are learned by ARP. Up to 16 packets for a next hop are held until it answers, in the buffers
//! that they came in. The question itself needs a buffer: an empty one, if the endpoint has credit
//! (`credit_buffers` in the switch's config); without credit, the packet that asks is turned into the question
//! and thereby lost.
//!
//! # What it does not do
//!
//! No IPv6, no fragmentation (a packet too long for the next link is dropped, or reported if it must not be
//! fragmented), no IP options beyond passing them on, no VLAN tags, no multicast, no redirects.

mod counters;
pub mod file;
mod icmp_error;
mod interface;
mod limiter;
mod neighbour;
mod route;
#[cfg(test)]
mod tests;
mod waiting;

use std::net::Ipv4Addr;
use std::time::Duration;

use packet::MacAddress;
use packet::arp::{Arp, ArpOperation};
use packet::ethernet::{ETHERNET_BYTES, Ethernet, EthernetHeader, EthernetMut};
use packet::icmp::{ECHO_REQUEST, IcmpFamily, PROTOCOL_ICMP, reply_to_echo};
use packet::ipv4::{Ipv4, Ipv4Mut};
use packet::parse::{ETHERTYPE_ARP, ETHERTYPE_IPV4};
use packet::udp::PROTOCOL_UDP;

pub use counters::{Counters, Event};
pub use icmp_error::IcmpError;
pub use interface::Interface;
pub use neighbour::Neighbour;
pub use route::{Hop, InterfaceIndex, RouteTable};
pub use waiting::Waiting;

use crate::frame::Frame;
use icmp_error::{OWN_TTL, is_host, may_be_reported, write_error};
use limiter::Limiter;
use neighbour::{Answer, Neighbours};

/// Shortest frame on Ethernet, without its checksum.
const FRAME_BYTES_MIN: usize = 60;

/// How forwarded packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Along their chain.
    Next,
    /// Straight out of the port of their egress interface.
    Port,
}

/// What the router's file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How forwarded packets leave.
    pub forward: Forward,
    /// Most ICMP errors a second; a tenth of them may go out at once.
    pub icmp_errors_per_second: u32,
    /// The interfaces; an [`InterfaceIndex`] counts in this order.
    pub interfaces: Vec<Interface>,
    /// Routes, those of the interfaces' own links included.
    pub routes: RouteTable,
    /// Neighbours whose MAC address is given.
    pub neighbours: Vec<(Neighbour, MacAddress)>,
}

/// Where packets of the router go. Each packet is given to exactly one of these.
pub trait Exits<B> {
    /// On along its chain.
    fn next(&mut self, frame: B);

    /// Out of the port of an interface.
    fn to_port(&mut self, frame: B, interface: InterfaceIndex);

    /// Nowhere.
    fn drop(&mut self, frame: B);

    /// A packet with these bytes in a buffer of its own, if there is an empty one.
    fn make(&mut self, bytes: &[u8]) -> Option<B>;
}

/// The router. What it knows outlasts an attach; the packets it holds, in a [`Waiting`], do not.
#[derive(Debug)]
pub struct Router {
    interfaces: Vec<Interface>,
    /// The switch's number of each interface's port.
    ports: Vec<u16>,
    routes: RouteTable,
    forward: Forward,
    neighbours: Neighbours,
    errors: Limiter,
    counters: Counters,
}

/// What is to be done with a packet.
enum Step {
    Drop(Event),
    Report(IcmpError),
    AnswerEcho,
    ReadArp,
    Forward(Neighbour),
}

impl Router {
    /// A router whose interfaces are the ports with these numbers, in the order of the settings.
    #[must_use]
    pub fn new(settings: Settings, ports: Vec<u16>) -> Self {
        let mut neighbours = Neighbours::default();
        for (neighbour, mac) in settings.neighbours {
            neighbours.fix(neighbour, mac);
        }
        Self {
            interfaces: settings.interfaces,
            ports,
            routes: settings.routes,
            forward: settings.forward,
            neighbours,
            errors: Limiter::new(settings.icmp_errors_per_second),
            counters: Counters::default(),
        }
    }

    /// What became of the packets so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Routes one packet.
    pub fn packet<B: Frame>(
        &mut self,
        frame: B,
        now: Duration,
        waiting: &mut Waiting<B>,
        exits: &mut impl Exits<B>,
    ) {
        let Some(ingress) = self.interface_of(&frame) else {
            return self.drop(frame, Event::UnknownPort, exits);
        };
        match self.classify(ingress, frame.data()) {
            Step::Drop(event) => self.drop(frame, event, exits),
            Step::Report(error) => self.report(frame, ingress, error, now, exits),
            Step::AnswerEcho => self.answer_echo(frame, ingress, exits),
            Step::ReadArp => self.read_arp(frame, ingress, now, waiting, exits),
            Step::Forward(neighbour) => self.resolve(frame, neighbour, now, waiting, exits),
        }
    }

    /// Asks again for neighbours that have not answered, and gives up on those that never do. To be called
    /// several times a second.
    pub fn tick<B: Frame>(&mut self, now: Duration, waiting: &mut Waiting<B>, exits: &mut impl Exits<B>) {
        let overdue = self.neighbours.overdue(now);
        for neighbour in overdue.again {
            if !self.ask(neighbour, exits)
                && let Some(frame) = waiting.take_one(neighbour)
            {
                self.turn_into_question(frame, neighbour, exits);
            }
        }
        for neighbour in overdue.failed {
            for frame in waiting.take_all(neighbour) {
                match self.interface_of(&frame) {
                    Some(ingress) => self.report(frame, ingress, IcmpError::HostUnreachable, now, exits),
                    None => self.drop(frame, Event::UnknownPort, exits),
                }
            }
        }
    }

    fn interface_of(&self, frame: &impl Frame) -> Option<InterfaceIndex> {
        self.ports.iter().position(|port| *port == frame.ingress_port())
    }

    fn drop<B>(&mut self, frame: B, event: Event, exits: &mut impl Exits<B>) {
        self.counters.count(event);
        exits.drop(frame);
    }

    /// Decides by the frame's headers alone; changes nothing.
    fn classify(&self, ingress: InterfaceIndex, frame: &[u8]) -> Step {
        let Ok(ethernet) = Ethernet::parse(frame) else { return Step::Drop(Event::Malformed) };
        let is_for_us = ethernet.destination() == self.interfaces[ingress].mac;
        match ethernet.ethertype() {
            ETHERTYPE_ARP if is_for_us || ethernet.destination() == MacAddress::BROADCAST => Step::ReadArp,
            _ if !is_for_us => Step::Drop(Event::NotForUs),
            ETHERTYPE_IPV4 => match Ipv4::parse(ethernet.payload()) {
                Ok(ip) => self.classify_ipv4(&ip),
                Err(_) => Step::Drop(Event::Malformed),
            },
            _ => Step::Drop(Event::NotIpv4),
        }
    }

    fn classify_ipv4(&self, ip: &Ipv4<'_>) -> Step {
        let destination = ip.destination();
        if !ip.is_checksum_right() {
            return Step::Drop(Event::BadChecksum);
        }
        if !is_host(ip.source()) || !is_host(destination) {
            return Step::Drop(Event::Martian);
        }
        if self.interfaces.iter().any(|interface| interface.address == destination) {
            return classify_own(ip);
        }
        let Some(hop) = self.routes.look_up(destination) else {
            return Step::Report(IcmpError::NetUnreachable);
        };
        let Some(egress) = self.interfaces.get(hop.interface) else {
            return Step::Report(IcmpError::NetUnreachable);
        };
        if hop.via.is_none() && !egress.holds_host(destination) {
            return Step::Drop(Event::Martian);
        }
        if ip.ttl() <= 1 {
            return Step::Report(IcmpError::TimeExceeded);
        }
        if ip.total_bytes() > usize::from(egress.mtu_bytes) {
            let mtu_bytes = egress.mtu_bytes;
            let needed = Step::Report(IcmpError::FragmentationNeeded { mtu_bytes });
            return if ip.is_dont_fragment() { needed } else { Step::Drop(Event::TooBig) };
        }
        Step::Forward((hop.interface, hop.via.unwrap_or(destination)))
    }

    /// Finds the MAC address of the next hop, or holds the packet until it is known.
    fn resolve<B: Frame>(
        &mut self,
        frame: B,
        neighbour: Neighbour,
        now: Duration,
        waiting: &mut Waiting<B>,
        exits: &mut impl Exits<B>,
    ) {
        match self.neighbours.look_up(neighbour, now) {
            Answer::Mac(mac) => self.send_on(frame, neighbour.0, mac, exits),
            Answer::MacToConfirm(mac) => {
                self.ask(neighbour, exits);
                self.send_on(frame, neighbour.0, mac, exits);
            }
            Answer::Ask if !self.ask(neighbour, exits) => self.turn_into_question(frame, neighbour, exits),
            Answer::Ask | Answer::Wait => {
                if let Err(frame) = waiting.hold(neighbour, frame) {
                    self.drop(frame, Event::Unresolved, exits);
                }
            }
            Answer::Full => self.drop(frame, Event::Unresolved, exits),
        }
    }

    /// Takes a hop off the packet and sends it to its next hop.
    fn send_on<B: Frame>(
        &mut self,
        mut frame: B,
        egress: InterfaceIndex,
        mac: MacAddress,
        exits: &mut impl Exits<B>,
    ) {
        let ours = self.interfaces[egress].mac;
        if rewrite(frame.data_mut(), ours, mac).is_none() {
            // The bytes were sound when they were classified: somebody else has written them since.
            return self.drop(frame, Event::Malformed, exits);
        }
        self.counters.count(Event::Forwarded);
        if self.forward == Forward::Next && self.ports[egress] != frame.ingress_port() {
            exits.next(frame);
        } else {
            exits.to_port(frame, egress);
        }
    }

    /// Sends the question who has an address, if there is an empty buffer for it.
    fn ask<B>(&mut self, neighbour: Neighbour, exits: &mut impl Exits<B>) -> bool {
        let Some(frame) = exits.make(&question(&self.interfaces[neighbour.0], neighbour.1)) else {
            return false;
        };
        self.counters.count(Event::ArpAsked);
        exits.to_port(frame, neighbour.0);
        true
    }

    /// Sends that question in the buffer of a packet, which is lost.
    fn turn_into_question<B: Frame>(
        &mut self,
        mut frame: B,
        neighbour: Neighbour,
        exits: &mut impl Exits<B>,
    ) {
        if !frame.set_len(FRAME_BYTES_MIN) {
            return self.drop(frame, Event::Unresolved, exits);
        }
        frame.data_mut().copy_from_slice(&question(&self.interfaces[neighbour.0], neighbour.1));
        self.counters.count(Event::TurnedIntoArp);
        exits.to_port(frame, neighbour.0);
    }

    fn read_arp<B: Frame>(
        &mut self,
        mut frame: B,
        ingress: InterfaceIndex,
        now: Duration,
        waiting: &mut Waiting<B>,
        exits: &mut impl Exits<B>,
    ) {
        let payload = frame.data().get(ETHERNET_BYTES..).unwrap_or_default();
        let Ok(arp) = Arp::read(payload) else { return self.drop(frame, Event::Malformed, exits) };
        let interface = &self.interfaces[ingress];
        if arp.sender_ip == interface.address {
            return self.drop(frame, Event::ArpConflict, exits);
        }
        let asks_us = arp.operation == ArpOperation::Request && arp.target_ip == interface.address;
        let neighbour = (ingress, arp.sender_ip);
        let answered = asks_us && write_reply(frame.data_mut(), interface, &arp);
        if interface.holds_host(arp.sender_ip)
            && self.neighbours.heard(neighbour, arp.sender_mac, asks_us, now)
        {
            for held in waiting.take_all(neighbour) {
                self.send_on(held, ingress, arp.sender_mac, exits);
            }
        }
        if !answered {
            return self.drop(frame, Event::ArpRead, exits);
        }
        self.counters.count(Event::ArpAnswered);
        exits.to_port(frame, ingress);
    }

    fn answer_echo<B: Frame>(&mut self, mut frame: B, ingress: InterfaceIndex, exits: &mut impl Exits<B>) {
        if turn_echo(frame.data_mut(), self.interfaces[ingress].mac).is_none() {
            return self.drop(frame, Event::Malformed, exits);
        }
        self.counters.count(Event::EchoAnswered);
        exits.to_port(frame, ingress);
    }

    /// Turns the packet into an error to its sender, if that may be done.
    fn report<B: Frame>(
        &mut self,
        mut frame: B,
        ingress: InterfaceIndex,
        error: IcmpError,
        now: Duration,
        exits: &mut impl Exits<B>,
    ) {
        let payload = frame.data().get(ETHERNET_BYTES..).unwrap_or_default();
        let may_be_sent = Ipv4::parse(payload).is_ok_and(|ip| may_be_reported(&ip));
        if !may_be_sent
            || !self.errors.allows(now)
            || !write_error(&mut frame, &self.interfaces[ingress], error)
        {
            return self.drop(frame, Event::ErrorWithheld, exits);
        }
        self.counters.count(error.event());
        exits.to_port(frame, ingress);
    }
}

/// What to do with a packet for one of the router's own addresses.
fn classify_own(ip: &Ipv4<'_>) -> Step {
    let is_echo = matches!(ip.payload(), [ECHO_REQUEST, 0, _, _, _, _, _, _, ..]);
    match ip.protocol() {
        _ if ip.is_fragment() => Step::Drop(Event::ForUs),
        PROTOCOL_ICMP if is_echo => Step::AnswerEcho,
        PROTOCOL_UDP => Step::Report(IcmpError::PortUnreachable),
        _ => Step::Drop(Event::ForUs),
    }
}

/// Addresses the frame to the next hop and takes a hop off its packet.
fn rewrite(frame: &mut [u8], from: MacAddress, to: MacAddress) -> Option<()> {
    let mut ethernet = EthernetMut::parse(frame).ok()?;
    Ipv4Mut::parse(ethernet.payload_mut()).ok()?.decrement_ttl()?;
    ethernet.set_destination(to);
    ethernet.set_source(from);
    Some(())
}

/// Turns an echo request into its reply: all addresses change places, and the hops start anew.
fn turn_echo(frame: &mut [u8], ours: MacAddress) -> Option<()> {
    let mut ethernet = EthernetMut::parse(frame).ok()?;
    let asker = ethernet.as_view().source();
    let mut ip = Ipv4Mut::parse(ethernet.payload_mut()).ok()?;
    let (source, destination) = (ip.as_view().source(), ip.as_view().destination());
    reply_to_echo(ip.payload_mut(), IcmpFamily::V4).ok()?;
    ip.set_source(destination);
    ip.set_destination(source);
    ip.set_ttl(OWN_TTL);
    ethernet.set_destination(asker);
    ethernet.set_source(ours);
    Some(())
}

/// The frame that asks everybody on an interface's link who has `address`.
fn question(interface: &Interface, address: Ipv4Addr) -> [u8; FRAME_BYTES_MIN] {
    let mut frame = [0; FRAME_BYTES_MIN];
    let ethernet = EthernetHeader {
        destination: MacAddress::BROADCAST,
        source: interface.mac,
        ethertype: ETHERTYPE_ARP,
    };
    let arp = Arp::request(interface.mac, interface.address, address);
    let written = ethernet.write(&mut frame).and_then(|payload| arp.write(payload));
    debug_assert!(written.is_ok(), "an ARP packet fits into the shortest frame");
    frame
}

/// Turns the frame of an ARP request into the reply to it.
fn write_reply(frame: &mut [u8], interface: &Interface, request: &Arp) -> bool {
    let ethernet =
        EthernetHeader { destination: request.sender_mac, source: interface.mac, ethertype: ETHERTYPE_ARP };
    let reply = request.reply(interface.mac);
    !request.sender_mac.is_multicast()
        && ethernet.write(frame).and_then(|payload| reply.write(payload)).is_ok()
}
