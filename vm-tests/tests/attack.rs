//! Attacks on one domain of a switch while another domain is at work.

use vm_tests::trial::{self, Plan, Summary};

fn attack(plan: &Plan) -> Summary {
    println!("{plan:?}");
    let summary = trial::run(plan, &mut |line| println!("{line}"));
    println!("{}", summary.text());
    summary
}

#[test]
fn attackers_in_a_process_and_a_vm_break_no_promise() {
    let summary = attack(&Plan { seconds: 30, seed: 0x6e65_7476, vm: true, only: Vec::new() });
    assert_eq!(summary.complaints(), Vec::<String>::new());
    let vm = summary.vm.expect("a VM attacked");
    let bars = vm.searched.keys().filter(|mapping| mapping.contains("resource")).count();
    assert!(bars > 0, "it searched BARs that are none of ours as well: {:?}", vm.searched);
}
