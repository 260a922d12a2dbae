//! Attacks on one domain of a switch while another domain is at work.

use vm_tests::attacker::kind::Kind;
use vm_tests::trial::{self, Plan, Summary};

/// Attacks; once more and for longer if a busy machine made too weak an attack of it.
fn attack(plan: &Plan) -> Summary {
    let mut plan = plan.clone();
    for _ in 0..3 {
        println!("{plan:?}");
        let summary = trial::run(&plan, &mut |line| println!("{line}"));
        println!("{}", summary.text());
        if summary.too_weak().is_empty() {
            return summary;
        }
        plan = Plan { seconds: plan.seconds * 2, seed: plan.seed + 1, ..plan };
    }
    panic!("the machine is too busy for an attack of {} s", plan.seconds / 2)
}

#[test]
fn attackers_in_a_process_and_a_vm_break_no_promise() {
    let summary =
        attack(&Plan { seconds: 30, seed: 0x6e65_7476, vm: true, only: Vec::new(), tricks: Vec::new() });
    assert_eq!(summary.complaints(), Vec::<String>::new());
    let vm = summary.vm.expect("a VM attacked");
    let searched = |name: &str, bytes: &u64| name.contains("resource") && *bytes > 0;
    let bars = vm.searched.iter().filter(|(name, bytes)| searched(name, bytes)).count();
    assert!(bars > 0, "it searched BARs that are none of ours as well: {:?}", vm.searched);
}

#[test]
fn an_attacker_in_a_process_meets_every_check() {
    let summary = attack(&Plan { seconds: 6, seed: 7, vm: false, only: Vec::new(), tricks: Vec::new() });
    assert_eq!(summary.complaints(), Vec::<String>::new());
}

#[test]
fn none_of_ten_million_denied_packets_of_a_process_and_a_million_of_a_vm_arrives() {
    let only = vec![Kind::DeniedEdges, Kind::DeniedTargets];
    let (mut by_process, mut by_vm) = (0, 0);
    for seed in 0..10 {
        let summary = attack(&Plan { seconds: 20, seed, vm: true, only: only.clone(), tricks: Vec::new() });
        assert_eq!(summary.complaints(), Vec::<String>::new());
        by_process += summary.denied_edge_tried_by_process;
        by_vm += summary.denied_edge_tried_by_vm;
        if by_process >= 10_000_000 && by_vm >= 1_000_000 {
            return;
        }
    }
    panic!("only {by_process} packets of the process and {by_vm} of the VM were tried");
}
