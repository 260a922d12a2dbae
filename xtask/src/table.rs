//! The demo's live table: what moved in the last second, what was dropped, who holds the buffers.

use std::fmt::Write;
use std::time::Duration;

use lab::status::Status;

/// One line for each port and endpoint, then drops and buffers.
#[must_use]
pub fn render(before: &Status, now: &Status, passed: Duration, note: &str) -> String {
    let mut text = String::new();
    let rate = |earlier: u64, later: u64| {
        #[allow(clippy::cast_precision_loss, reason = "a rate for display")]
        let packets = later.saturating_sub(earlier) as f64;
        packets / passed.as_secs_f64().max(1e-3)
    };
    line(&mut text, &format!("{:<26} {:>12} {:>12}", "", "in/s", "out/s"));
    for port in &now.ports {
        let earlier = before.port(&port.name);
        line(
            &mut text,
            &format!(
                "{:<26} {:>12.0} {:>12.0}",
                format!("port {}", port.name),
                rate(earlier.map_or(0, |port| port.rx_packets), port.rx_packets),
                rate(earlier.map_or(0, |port| port.tx_packets), port.tx_packets),
            ),
        );
    }
    for endpoint in &now.endpoints {
        let earlier = before.endpoint_of(&endpoint.owner);
        line(
            &mut text,
            &format!(
                "{:<26} {:>12.0} {:>12.0}  {} holds {}",
                format!("nf {}/{}", endpoint.owner, endpoint.service),
                rate(earlier.map_or(0, |endpoint| endpoint.received), endpoint.received),
                rate(earlier.map_or(0, |endpoint| endpoint.returned), endpoint.returned),
                endpoint.phase,
                endpoint.held,
            ),
        );
    }
    for (domain, buffers) in &now.buffers {
        let held: u64 = buffers.endpoints.values().sum();
        line(
            &mut text,
            &format!(
                "buffers {domain}: {} of {} = pool {} + drivers {} + lcores {} + endpoints {held} + quarantined {}",
                buffers.accounted(),
                buffers.total,
                buffers.pool,
                buffers.pmd,
                buffers.lcore,
                buffers.quarantined,
            ),
        );
    }
    line(&mut text, &format!("copies in the trusted chain: {}", now.copies_in_trusted_chain));
    line(&mut text, &format!("drops: {}", drops(now)));
    if !note.is_empty() {
        line(&mut text, note);
    }
    text
}

fn line(text: &mut String, content: &str) {
    // Writing to a String does not fail.
    let _infallible = writeln!(text, "{content}");
}

fn drops(status: &Status) -> String {
    let named: Vec<String> = status
        .drops_by_reason()
        .into_iter()
        .filter(|(_, packets)| *packets > 0)
        .map(|(reason, packets)| format!("{reason} {packets}"))
        .collect();
    if named.is_empty() { "none".to_owned() } else { named.join(", ") }
}
