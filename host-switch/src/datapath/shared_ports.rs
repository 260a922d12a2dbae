//! The ports that several domains share, in an lcore's turn.

use super::egress::FLUSH_FRAMES;
use super::lcore::Lcore;

/// Which of an lcore's queues belong to ports that several domains share.
#[derive(Debug, Default)]
pub(super) struct SharedPorts {
    /// Positions of receiving sides.
    pub ingresses: Vec<usize>,
    /// Positions of sending sides: by port.
    pub egresses: Vec<usize>,
}

impl SharedPorts {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.egresses.is_empty()
    }
}

impl Lcore {
    /// Receives a burst from each shared port, and sends what waits for them; how many frames.
    #[cold]
    #[inline(never)]
    pub(super) fn serve_shared_ports(&mut self) -> usize {
        let mut moved = 0;
        for at in 0..self.shared.ingresses.len() {
            moved += self.receive_shared(self.shared.ingresses[at]);
            self.flush(FLUSH_FRAMES);
        }
        self.flush(1);
        moved + self.send_lines()
    }

    /// After all lcores have ended: what one handed on too late goes home.
    pub(super) fn give_up_lines(&mut self) {
        let Self { shared, egresses, domains, .. } = self;
        shared.egresses.iter().for_each(|&port| egresses[port].give_up(domains));
    }

    /// Sends what waits in the lines of shared ports, as far as drivers take it; how many frames.
    pub(super) fn send_lines(&mut self) -> usize {
        let Self { shared, egresses, domains, .. } = self;
        shared.egresses.iter().map(|&port| egresses[port].send_lines(domains)).sum()
    }
}
