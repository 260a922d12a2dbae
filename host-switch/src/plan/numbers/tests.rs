use std::fmt::Write as _;

use security_domains::parse;

use super::*;

/// A config with these chains, the first of which the port takes, over services a, b and c in this order.
fn config(services: &[&str], chains: &[(&str, &[&str])]) -> Config {
    with_endpoints(services, chains, ["a", "b", "c"])
}

fn with_endpoints(services: &[&str], chains: &[(&str, &[&str])], endpoints: [&str; 3]) -> Config {
    let mut text =
        "[switch]\nname = \"s\"\nlcores = [0]\n[[domain]]\nname = \"blue\"\nregion_mib = 16\n".to_owned();
    for port in ["in", "out"] {
        _ = write!(text, "[[port]]\nname = \"{port}\"\ndevice = \"net_null{}\"\n", u8::from(port == "out"));
        _ = write!(text, "domain = \"blue\"\nchain = \"{}\"\n", chains[0].0);
    }
    for service in services {
        _ = write!(text, "[[service]]\nname = \"{service}\"\n");
    }
    for (name, path) in chains {
        _ = write!(text, "[[chain]]\nname = \"{name}\"\npath = {path:?}\negress = \"out\"\n");
    }
    _ = write!(text, "[[process]]\nname = \"p\"\ndomain = \"blue\"\n");
    for service in endpoints {
        _ = write!(text, "[[process.endpoint]]\nservice = \"{service}\"\n");
    }
    parse(&text, "s.toml").unwrap_or_else(|findings| panic!("{findings}"))
}

const ABC: [&str; 3] = ["a", "b", "c"];

fn chain(numbered: &Numbered, name: &str) -> u16 {
    let place = numbered.config.chains.iter().position(|chain| chain.name == name);
    u16::try_from(place.unwrap_or_else(|| panic!("no chain {name}"))).unwrap_or(u16::MAX)
}

fn path(numbered: &Numbered, chain: u16) -> Vec<u16> {
    numbered.config.chains[usize::from(chain)].path.iter().map(|id| id.0).collect()
}

#[test]
fn what_stays_keeps_its_number_whatever_the_order_of_the_file() {
    let first = Numbered::first(&config(&ABC, &[("x", &["a"]), ("y", &["b", "c"])]));
    let next = config(&["c", "b", "a"], &[("y", &["b", "c"]), ("x", &["a"])]);
    let then = first.then(&next, &[], true).unwrap_or_else(|| panic!("numbers"));
    assert_eq!((chain(&then, "x"), chain(&then, "y")), (0, 1));
    assert_eq!((path(&then, 0), path(&then, 1)), (vec![0], vec![1, 2]));
    assert_eq!(then.config.ports[0].chain, ChainId(1), "as the file says");
    assert_eq!(then.chains, [ChainId(1), ChainId(0)]);
    assert_eq!(then.unentered(), []);
}

#[test]
fn a_chain_with_another_path_gets_another_number_and_the_old_one_lingers() {
    let first = Numbered::first(&config(&ABC, &[("x", &["a", "b"])]));
    let then = first.then(&config(&ABC, &[("x", &["b"])]), &[], true).unwrap_or_else(|| panic!("numbers"));
    assert_eq!(chain(&then, "x"), 1);
    assert_eq!((path(&then, 0), path(&then, 1)), (vec![0, 1], vec![1]));
    assert_eq!(then.config.ports[0].chain, ChainId(1));
    assert_eq!((then.unentered(), then.chains.clone()), (vec![ChainId(0)], vec![ChainId(1)]));
    // While a packet has the number, it stays; then it is free.
    let same = config(&ABC, &[("x", &["b"])]);
    let carried = then.then(&same, &[ChainId(0)], true).unwrap_or_else(|| panic!("numbers"));
    assert_eq!((path(&carried, 0), carried.unentered()), (vec![0, 1], vec![ChainId(0)]));
    let again = config(&ABC, &[("x", &["c"])]);
    let blocked = then.then(&again, &[ChainId(0)], true).unwrap_or_else(|| panic!("numbers"));
    assert_eq!(chain(&blocked, "x"), 2);
    let reused = then.then(&again, &[], true).unwrap_or_else(|| panic!("numbers"));
    assert_eq!((chain(&reused, "x"), path(&reused, 1)), (0, vec![1]));
}

#[test]
fn a_chain_that_is_gone_lingers_or_is_vacant() {
    let first = Numbered::first(&config(&ABC, &[("x", &["a"]), ("y", &["b"])]));
    let next = config(&ABC, &[("x", &["a"])]);
    let then = first.then(&next, &[], true).unwrap_or_else(|| panic!("numbers"));
    assert_eq!((path(&then, 1), then.unentered()), (vec![1], vec![ChainId(1)]));
    let vacant = first.then(&next, &[], false).unwrap_or_else(|| panic!("numbers"));
    assert_eq!((path(&vacant, 1), vacant.unentered()), (vec![], vec![ChainId(1)]));
    // One of the same name is another one, as long as packets are on the first.
    let back = config(&ABC, &[("x", &["a"]), ("y", &["b"])]);
    let back = then.then(&back, &[ChainId(1)], true).unwrap_or_else(|| panic!("numbers"));
    assert_eq!(chain(&back, "y"), 2);
}

#[test]
fn endpoints_stay_where_they_are_in_the_control_area() {
    let first = Numbered::first(&config(&ABC, &[("x", &["a"])]));
    let next = with_endpoints(&["c", "b", "a"], &[("x", &["a"])], ["c", "a", "b"]);
    let then = first.then(&next, &[], true).unwrap_or_else(|| panic!("numbers"));
    assert_eq!(then.config.processes, first.config.processes);
}

#[test]
fn things_that_need_a_restart_have_no_numbers() {
    let first = Numbered::first(&config(&ABC, &[("x", &["a"])]));
    let mut other = config(&ABC, &[("x", &["a"])]);
    other.ports[1].name = "elsewhere".to_owned();
    assert!(first.then(&other, &[], true).is_none());
    other.ports.pop();
    assert!(first.then(&other, &[], true).is_none());
}
