//! The unanswered flows in the order in which they entered.
//!
//! A list through the accounts. It is touched when a flow enters, is answered or ends, never by a packet more of an
//! unanswered flow: who sends on and on without a reply does not stay for longer.

use crate::line::NOBODY;
use crate::table::FlowTable;

impl FlowTable<'_> {
    /// Notes a flow that has just entered.
    pub(super) fn enlist(&mut self, slot: u32) {
        let before = self.youngest;
        let account = &mut self.accounts[slot as usize];
        (account.older, account.younger) = (before, NOBODY);
        match self.accounts.get_mut(before as usize) {
            Some(account) => account.younger = slot,
            None => self.oldest = slot,
        }
        self.youngest = slot;
        self.unanswered += 1;
    }

    /// Takes out a flow that is answered now, or ends.
    pub(super) fn delist(&mut self, slot: u32) {
        let (older, younger) = {
            let account = &self.accounts[slot as usize];
            (account.older, account.younger)
        };
        match self.accounts.get_mut(older as usize) {
            Some(account) => account.younger = younger,
            None => self.oldest = younger,
        }
        match self.accounts.get_mut(younger as usize) {
            Some(account) => account.older = older,
            None => self.youngest = older,
        }
        self.unanswered -= 1;
    }
}
