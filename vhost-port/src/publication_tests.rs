//! Under `--cfg loom` the models run instead of the stress test; each ordering that they watch is a feature
//! `sabotage-*` that must make one fail.

use super::*;

#[cfg(loom)]
mod models {
    use loom::cell::UnsafeCell;

    use super::*;

    /// Memory that is unmapped when the last reference goes. Loom fails if it is used meanwhile, or by a thread
    /// that does not know that it was made.
    struct Mapped(UnsafeCell<u32>);

    // SAFETY: loom checks every access to the cell.
    unsafe impl Sync for Mapped {}

    fn mapped() -> Mapped {
        Mapped(UnsafeCell::new(1))
    }

    fn look_at(memory: &Mapped) {
        memory.0.with(|_| {});
    }

    /// Takes whatever there is, as a lane does between two bursts.
    fn adopt(lane: &mut Subscription<Mapped>, held: &mut Option<std::sync::Arc<Mapped>>) {
        if lane.has_news()
            && let Some((generation, next)) = lane.take()
        {
            look_at(&next);
            if held.replace(next).is_some() {
                lane.report(0).set_next_available(7);
            }
            lane.acknowledge(generation);
        }
    }

    /// Once control knows that a lane has passed, it may change what was published before, and sees what the lane
    /// reported about it.
    #[test]
    fn what_every_lane_has_passed_is_out_of_use() {
        loom::model(|| {
            let (mut control, mut lanes) = publication::<Mapped>(1, 1);
            let mut lane = lanes.remove(0);
            lane.come_back();
            control.publish(mapped());
            let polling = loom::thread::spawn(move || {
                let mut held = None;
                for _ in 0..2 {
                    adopt(&mut lane, &mut held);
                    held.iter().for_each(|memory| look_at(memory));
                }
                (lane, held)
            });
            let generation = control.publish(mapped());
            if control.has_passed(0, generation) {
                for (_, replaced) in &control.kept {
                    // SAFETY: loom checks that nobody reads while this writes.
                    replaced.0.with_mut(|byte| unsafe { *byte = 0 });
                }
                control.drop_unused();
                assert_eq!(control.kept_count(), 0);
            }
            polling.join().unwrap();
        });
    }

    /// A lane that goes away holds nothing, and takes nothing old when it comes back.
    #[test]
    fn a_lane_that_is_away_is_not_waited_for_and_comes_back_to_the_newest() {
        loom::model(|| {
            let (mut control, mut lanes) = publication::<Mapped>(1, 1);
            let mut lane = lanes.remove(0);
            lane.come_back();
            control.publish(mapped());
            let polling = loom::thread::spawn(move || {
                let mut held = None;
                adopt(&mut lane, &mut held);
                held.iter().for_each(|memory| look_at(memory));
                drop(held);
                lane.go_away();
                lane.come_back();
                let mut held = None;
                adopt(&mut lane, &mut held);
                held.iter().for_each(|memory| look_at(memory));
                (lane, held)
            });
            let generation = control.publish(mapped());
            if control.has_passed(0, generation) {
                for (_, replaced) in &control.kept {
                    // SAFETY: loom checks that nobody reads while this writes.
                    replaced.0.with_mut(|byte| unsafe { *byte = 0 });
                }
            }
            polling.join().unwrap();
        });
    }
}

#[cfg(not(loom))]
mod plain {
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::thread::ThreadId;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_lane_takes_the_newest_setup_and_control_waits_for_it() {
        let (mut control, mut lanes) = publication::<u32>(1, 1);
        let mut lane = lanes.remove(0);
        assert!(!lane.has_news() && lane.take().is_none());
        lane.come_back();
        control.publish(1);
        let generation = control.publish(2);
        let stuck = control.wait_passed(generation, Duration::from_millis(1)).unwrap_err();
        assert_eq!((stuck.lane, stuck.generation), (0, 2));
        assert_eq!(control.kept_count(), 1);
        let (taken, setup) = lane.take().unwrap();
        assert_eq!((taken, *setup), (2, 2));
        assert!(lane.take().is_none());
        lane.acknowledge(taken);
        control.wait_passed(generation, Duration::ZERO).unwrap();
        assert_eq!(control.kept_count(), 0);
    }

    #[test]
    fn a_lane_that_is_away_holds_nobody_up() {
        let (mut control, mut lanes) = publication::<u32>(2, 1);
        let mut lane = lanes.remove(0);
        lane.come_back();
        let generation = control.publish(1);
        assert_eq!(control.wait_passed(generation, Duration::ZERO).unwrap_err().lane, 0);
        lane.go_away();
        control.wait_passed(generation, Duration::ZERO).unwrap();
        lane.come_back();
        assert_eq!(*lane.take().unwrap().1, 1);
    }

    /// What a setup stands for: it notes who dropped it last.
    struct Noting {
        is_over: AtomicBool,
        dropped_by: std::sync::mpsc::Sender<ThreadId>,
    }

    impl Drop for Noting {
        fn drop(&mut self) {
            _ = self.dropped_by.send(std::thread::current().id());
        }
    }

    /// Lanes that work by setups while control replaces them as fast as it can.
    #[test]
    fn no_lane_ever_drops_a_setup_or_uses_one_that_control_has_taken_back() {
        let (dropped_by, droppers) = std::sync::mpsc::channel();
        let noting = || Noting { is_over: AtomicBool::new(false), dropped_by: dropped_by.clone() };
        let (mut control, lanes) = publication::<Noting>(2, 1);
        let ended = AtomicBool::new(false);
        let bursts = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for (number, mut lane) in lanes.into_iter().enumerate() {
                let (ended, bursts) = (&ended, &bursts);
                scope.spawn(move || {
                    let mut held: Option<std::sync::Arc<Noting>> = None;
                    lane.come_back();
                    let mut turn = 0_u32;
                    while !ended.load(Ordering::Relaxed) {
                        turn = turn.wrapping_add(1);
                        if let Some((generation, next)) = lane.take() {
                            held = Some(next);
                            lane.acknowledge(generation);
                        }
                        assert!(held.as_ref().is_none_or(|held| !held.is_over.load(Ordering::Relaxed)));
                        bursts.fetch_add(1, Ordering::Relaxed);
                        if number == 1 && turn.is_multiple_of(64) {
                            held = None;
                            lane.go_away();
                            std::thread::yield_now();
                            lane.come_back();
                        }
                    }
                    drop(held);
                    lane.go_away();
                });
            }
            // The lanes begin away: go on until they have worked for a while.
            let mut rounds = 0;
            while rounds < 500 || bursts.load(Ordering::Relaxed) < 5000 {
                rounds += 1;
                let replaced = control.current.clone();
                let generation = control.publish(noting());
                control.wait_passed(generation, SOON).unwrap();
                replaced.iter().for_each(|setup| setup.is_over.store(true, Ordering::Relaxed));
            }
            ended.store(true, Ordering::Relaxed);
        });
        let here = std::thread::current().id();
        drop(control);
        drop(dropped_by);
        assert!(droppers.iter().all(|dropper| dropper == here));
    }
}
