//! Random rings, served by a lane and read by the `virtio-queue` crate.

mod oracle;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_oracle_agrees_on_each_chain_and_byte(data in proptest::collection::vec(any::<u8>(), 0..1500)) {
        oracle::run(&data);
    }
}
