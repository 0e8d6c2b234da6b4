//! When a plan is made anew.

use super::*;

/// What each device has shown that it restores: a quarter of what the link carries.
const RESTORES: u64 = LINK / 4;

/// Two receivers of images that have nothing in common, on a stream each.
fn two_streams() -> Scene {
    let mut scene = Scene::new(&[1_000, 1_000], 4, "wait");
    for receiver in 0..2 {
        scene.join(receiver, &[range(1_000 * receiver as u32, 1_000)], RESTORES);
    }
    scene.show(&[(0, RESTORES), (1, RESTORES)]);
    scene.is_planned(0);
    assert_eq!(scene.delivery.streams_in_use(), 2);
    scene
}

impl Scene {
    /// Whether a plan is made when so much time has passed.
    fn is_planned(&mut self, after_us: u64) -> bool {
        self.now = self.now.after(after_us);
        self.delivery.mind_plan(self.now);
        self.delivery.planned_at == Some(self.now)
    }

    fn completes(&mut self, receiver: u64, chunks: ChunkRange) {
        let report = Report { completed: vec![chunks], ..Report::default() };
        self.delivery.handle(self.now, Event::Reported { receiver: ReceiverId(receiver), report });
    }
}

/// What happens, and whether that is a reason for a new plan.
type Happening = (&'static str, fn(&mut Scene), bool);

#[test]
fn what_is_news_leads_to_a_new_plan_at_once_and_nothing_else_does() {
    let happenings: [Happening; 9] = [
        ("nothing", |_| (), false),
        ("somebody joins", |scene| scene.join(2, &[range(0, 10)], RESTORES), true),
        ("somebody is done", |scene| scene.delivery.handle(scene.now, Event::Left { receiver: ReceiverId(0) }), true),
        ("a priority is changed", |scene| scene.prioritize(1, 5), true),
        ("a priority is said again", |scene| scene.prioritize(1, 0), false),
        ("a device is slower by a quarter", |scene| scene.show(&[(0, RESTORES * 3 / 4)]), true),
        ("a device is slower by a tenth", |scene| scene.show(&[(0, RESTORES * 9 / 10)]), false),
        ("a device completes a tenth more than it restores", |scene| scene.completes(0, range(0, 10 + 688)), true),
        ("a device completes what it restores", |scene| scene.completes(0, range(0, 10 + 625)), false),
    ];
    for (name, happen, is_news) in happenings {
        let mut scene = two_streams();
        // From here on what it completes is counted.
        scene.completes(0, range(0, 10));
        assert!(!scene.is_planned(1_000_000), "{name}: before it happens");
        happen(&mut scene);
        assert_eq!(scene.is_planned(0), is_news, "{name}");
    }
}

#[test]
fn plans_are_made_no_more_often_than_their_interval() {
    let mut scene = two_streams();
    scene.prioritize(1, 5);
    assert!(!scene.is_planned(PLAN_INTERVAL_US - 1));
    assert!(scene.is_planned(1));
}

#[test]
fn while_there_are_several_streams_a_plan_is_made_every_two_seconds() {
    let mut scene = two_streams();
    assert!(!scene.is_planned(PLAN_REFRESH_US - 1));
    assert!(scene.is_planned(1));
    scene.delivery.handle(scene.now, Event::Left { receiver: ReceiverId(0) });
    assert!(scene.is_planned(PLAN_INTERVAL_US));
    assert!(!scene.is_planned(10 * PLAN_REFRESH_US), "one is left, which has everything");
}

#[test]
fn what_a_receiver_that_is_done_took_of_the_link_is_given_to_the_others() {
    let mut scene = two_streams();
    scene.prioritize(0, 1);
    assert!(scene.is_planned(PLAN_INTERVAL_US));
    let rate_of = |scene: &Scene, receiver| scene.delivery.lanes[usize::from(scene.streams_of(receiver)[0])].rate_cap_bits_per_second();
    scene.obey();
    let cap = LINK * 8;
    let left = cap - scene.delivery.line_bits(RESTORES as f64 * 1.1);
    assert!(rate_of(&scene, 1).abs_diff(left) < cap / 100, "the quarter and its margin are the higher priority's: {}", rate_of(&scene, 1));
    scene.delivery.handle(scene.now, Event::Left { receiver: ReceiverId(0) });
    assert!(scene.is_planned(PLAN_INTERVAL_US));
    assert_eq!(rate_of(&scene, 1), cap);
}

#[test]
fn a_pack_of_many_chunks_is_planned_more_seldom() {
    let (half, three_times) = (3 * PLAN_CHUNKS as u32 / 2, 3);
    let mut scene = Scene::new(&[half, half], 4, "wait");
    for receiver in 0..2 {
        let want = range(half * receiver, half);
        scene.delivery.join(scene.now, ReceiverId(receiver.into()), &[want], RESTORES, false);
    }
    scene.show(&[(0, RESTORES), (1, RESTORES)]);
    scene.is_planned(three_times * PLAN_REFRESH_US);
    assert_eq!(scene.delivery.streams_in_use(), 2);
    scene.prioritize(1, 5);
    assert!(!scene.is_planned(three_times * PLAN_INTERVAL_US - 1) && scene.is_planned(1));
    assert!(!scene.is_planned(three_times * PLAN_REFRESH_US - 1) && scene.is_planned(1));
}
