//! What became of each packet, by name.

use std::fmt;

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What became of a packet. Every packet ends in exactly one of these; [`Event::ArpAsked`] alone is
        /// about a packet that the router made.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event { $($(#[$doc])* $variant,)* }

        impl Event {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// What reports call it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

events! {
    /// Sent on to its next hop.
    Forwarded = "forwarded",
    /// An ARP request for our address became its reply.
    ArpAnswered = "arp_answered",
    /// An echo request to our address became its reply.
    EchoAnswered = "echo_answered",
    /// Became an ICMP "time exceeded".
    TimeExceededSent = "time_exceeded_sent",
    /// Became an ICMP "net unreachable".
    NetUnreachableSent = "net_unreachable_sent",
    /// Became an ICMP "host unreachable".
    HostUnreachableSent = "host_unreachable_sent",
    /// Became an ICMP "port unreachable".
    PortUnreachableSent = "port_unreachable_sent",
    /// Became an ICMP "fragmentation needed".
    FragmentationNeededSent = "fragmentation_needed_sent",
    /// Became an ARP request for its own next hop, because no empty buffer was there.
    TurnedIntoArp = "turned_into_arp",
    /// An ARP request, made in an empty buffer.
    ArpAsked = "arp_asked",
    /// Dropped after it was read: ARP that asks nothing of us.
    ArpRead = "arp_read",
    /// Dropped: somebody else claims our address.
    ArpConflict = "arp_conflict",
    /// Dropped: an error was due, and may not be sent or not so often.
    ErrorWithheld = "error_withheld",
    /// Dropped: received on a port that is no interface.
    UnknownPort = "unknown_port",
    /// Dropped: its frame is addressed to somebody else on the link.
    NotForUs = "not_for_us",
    /// Dropped: neither IPv4 nor ARP.
    NotIpv4 = "not_ipv4",
    /// Dropped: a header that makes no sense.
    Malformed = "malformed",
    /// Dropped: its header's checksum is wrong.
    BadChecksum = "bad_checksum",
    /// Dropped: from or to an address that no single host can have.
    Martian = "martian",
    /// Dropped: addressed to the router, which has no use for it.
    ForUs = "for_us",
    /// Dropped: too long for the next link; this router does not fragment.
    TooBig = "too_big",
    /// Dropped: its next hop is not known yet, and no more packets are held for it.
    Unresolved = "unresolved",
}

/// A count for each event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters([u64; Event::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Event::ALL.len()])
    }
}

impl Counters {
    /// Counts one event.
    #[inline]
    pub fn count(&mut self, event: Event) {
        self.0[event as usize] += 1;
    }

    /// How often an event happened.
    #[must_use]
    pub const fn of(&self, event: Event) -> u64 {
        self.0[event as usize]
    }

    /// Packets that have come to their end: all but those that are held, and those made here.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.0.iter().sum::<u64>() - self.of(Event::ArpAsked)
    }

    /// The eight numbers that the switch shows for a router: packets forwarded, ARP requests answered, echo
    /// requests answered, ICMP errors sent, ARP questions sent, packets dropped unresolved, without a sound
    /// header, and for any other reason.
    #[must_use]
    pub fn shown(&self) -> [u64; 8] {
        let mut shown = [0; 8];
        for event in Event::ALL {
            let place = match event {
                Event::Forwarded => 0,
                Event::ArpAnswered => 1,
                Event::EchoAnswered => 2,
                Event::TimeExceededSent
                | Event::NetUnreachableSent
                | Event::HostUnreachableSent
                | Event::PortUnreachableSent
                | Event::FragmentationNeededSent => 3,
                Event::ArpAsked | Event::TurnedIntoArp => 4,
                Event::Unresolved => 5,
                Event::Malformed | Event::BadChecksum => 6,
                _ => 7,
            };
            shown[place] += self.of(*event);
        }
        shown
    }
}

/// One line for each event that happened.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in Event::ALL.iter().filter(|event| self.of(**event) > 0) {
            writeln!(f, "{} {}", event.name(), self.of(*event))?;
        }
        Ok(())
    }
}
