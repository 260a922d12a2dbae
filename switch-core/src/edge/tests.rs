//! Which packets cross, in the switch of [`crate::test_switch`] with edges.

use proptest::prelude::*;

use super::*;
use crate::criteria::Prefix;
use crate::drop_reason::DropReason;
use crate::forwarding::Forwarding;
use crate::test_frames::{ethernet, ipv4, ports, tcp};
use crate::test_switch::{BLUE, RED, spec};

const GREEN: DomainId = DomainId(2);
const DENIED: Result<EdgeId, DropReason> = Err(DropReason::DomainEdgeDenied);

fn edge(from: DomainId, to: DomainId, flows: Criteria) -> EdgeSpec {
    EdgeSpec { from, to, flows, broadcast: false, limit: None, limited_with: None }
}

fn for_all(from: DomainId, to: DomainId) -> EdgeSpec {
    edge(from, to, Criteria::default())
}

fn with(edges: &[EdgeSpec]) -> Forwarding {
    let mut spec = spec();
    spec.edges = edges.to_vec();
    spec.build().unwrap()
}

fn to_port(port: u16) -> Criteria {
    Criteria { destination_ports: Some(port..=port), ..Criteria::default() }
}

#[test]
fn what_no_edge_is_drawn_for_does_not_cross() {
    let forwarding = with(&[edge(BLUE, RED, to_port(80)), for_all(GREEN, RED)]);
    assert_eq!(forwarding.edge(BLUE, RED, &tcp(1000, 80)), Ok(EdgeId(0)));
    assert_eq!(forwarding.edge(GREEN, RED, &tcp(1000, 81)), Ok(EdgeId(1)));
    for (from, to, port) in [
        (BLUE, RED, 81),
        (RED, BLUE, 80),
        (BLUE, GREEN, 80),
        (RED, GREEN, 80),
        (BLUE, BLUE, 80),
        (DomainId(9), RED, 80),
        (BLUE, DomainId(u16::MAX), 80),
    ] {
        assert_eq!(forwarding.edge(from, to, &tcp(1000, port)), DENIED, "{from} {to} {port}");
    }
    assert_eq!(with(&[]).edge(BLUE, RED, &tcp(1000, 80)), DENIED);
}

#[test]
fn of_several_edges_the_first_that_carries_the_packet_takes_it() {
    let forwarding = with(&[edge(BLUE, RED, to_port(22)), for_all(BLUE, RED), edge(BLUE, RED, to_port(80))]);
    assert_eq!(forwarding.edge(BLUE, RED, &tcp(1, 22)), Ok(EdgeId(0)));
    assert_eq!(forwarding.edge(BLUE, RED, &tcp(1, 80)), Ok(EdgeId(1)));
    assert_eq!(forwarding.edges().len(), 3);
}

#[test]
fn what_an_edge_cannot_say_it_does_not_carry_but_another_may() {
    let mut fragment = ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, &ports(1000, 80));
    fragment[14 + 6] = 0x20;
    let fragment = HeaderCopy::of_frame(&fragment);
    assert_eq!(with(&[edge(BLUE, RED, to_port(80))]).edge(BLUE, RED, &fragment), DENIED);
    let source = Prefix::new([10, 0, 0, 0].into(), 24);
    let from_here = Criteria { source, ..Criteria::default() };
    let forwarding = with(&[edge(BLUE, RED, to_port(80)), edge(BLUE, RED, from_here)]);
    assert_eq!(forwarding.edge(BLUE, RED, &fragment), Ok(EdgeId(1)));
}

#[test]
fn a_frame_for_a_group_crosses_only_on_an_edge_that_says_so() {
    let frame = |first_byte| {
        let mut frame = ethernet(0x0806, &[0; 28]);
        frame[0] = first_byte;
        HeaderCopy::of_frame(&frame)
    };
    let quiet = with(&[for_all(BLUE, RED)]);
    assert_eq!(quiet.edge(BLUE, RED, &frame(0xfe)), Ok(EdgeId(0)));
    for group in [0xff, 0x01, 0x33] {
        assert_eq!(quiet.edge(BLUE, RED, &frame(group)), DENIED, "{group:#x}");
    }
    let loud = with(&[for_all(BLUE, RED), EdgeSpec { broadcast: true, ..for_all(BLUE, RED) }]);
    assert_eq!(loud.edge(BLUE, RED, &frame(0xff)), Ok(EdgeId(1)));
    assert_eq!(loud.edge(BLUE, RED, &frame(0xfe)), Ok(EdgeId(0)));
}

#[test]
fn what_is_shorter_than_an_ethernet_header_does_not_cross() {
    let forwarding = with(&[EdgeSpec { broadcast: true, ..for_all(BLUE, RED) }]);
    assert_eq!(forwarding.edge(BLUE, RED, &HeaderCopy::of_frame(&[0; 14])), Ok(EdgeId(0)));
    assert_eq!(forwarding.edge(BLUE, RED, &HeaderCopy::of_frame(&[0; 13])), DENIED);
    assert_eq!(forwarding.edge(BLUE, RED, &HeaderCopy::default()), DENIED);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn whatever_the_bytes_only_a_drawn_edge_that_asks_for_them_carries_them(
        drawn in proptest::collection::vec((0..4u16, 0..4u16, any::<bool>(), any::<bool>()), 0..8),
        frame in proptest::collection::vec(any::<u8>(), 0..80),
        from in 0..4u16,
        to in 0..4u16,
    ) {
        let edges: Vec<EdgeSpec> = drawn
            .iter()
            .filter(|(from, to, ..)| from != to)
            .map(|&(from, to, broadcast, for_port)| {
                let flows = if for_port { to_port(80) } else { Criteria::default() };
                EdgeSpec { broadcast, ..edge(DomainId(from), DomainId(to), flows) }
            })
            .collect();
        let (from, to, header) = (DomainId(from), DomainId(to), HeaderCopy::of_frame(&frame));
        let carries = |edge: &EdgeSpec| {
            edge.from == from
                && edge.to == to
                && frame.len() >= 14
                && (edge.broadcast || frame[0] & 1 == 0)
                && edge.flows.evaluate(&header.parse()) == Match::Yes
        };
        let expected = edges.iter().position(carries).and_then(|id| u16::try_from(id).ok()).map(EdgeId);
        prop_assert_eq!(with(&edges).edge(from, to, &header).ok(), expected);
    }
}
