//! Connections that break, senders that go and come back, and what receivers make of it.

use super::*;

#[test]
fn receivers_come_back_to_a_restarted_sender_and_say_what_they_still_want() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (_, link) = listed(&server.options(), range(0, 10));
    let address = server.control.local_addr();
    // Not stopped in good order: dropped, as when it is killed.
    drop(server);
    until_lost(&link);
    // Said to nobody.
    link.send(ToSender::Report(Report { completed: vec![range(0, 1)], ..Report::default() }));
    let server = Server::start(state.path(), address, session(1));
    until(&link, &FromSender::NeedReady);
    link.send(ready(vec![range(4, 6)]));
    let joined = server.next();
    let ControlEvent::Joined { receiver, ref want, .. } = joined else { panic!("{joined:?}") };
    assert_eq!(*want, [range(4, 6)]);
    until(&link, &FromSender::Listed);
    let report = Report { completed: vec![range(4, 6)], ..Report::default() };
    link.send(ToSender::Report(report.clone()));
    assert_eq!(server.next(), ControlEvent::Reported { receiver, report });
    link.send(ToSender::Complete { image_bytes: 1, duration_ms: 1 });
    assert_eq!(server.next(), ControlEvent::Left { receiver, outcome: Outcome::Completed });
    until(&link, &FromSender::Acknowledged);
}

#[test]
fn a_sender_that_is_gone_for_good_is_given_up_in_time() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (_, link) = listed(&ConnectOptions { give_up_after: Duration::from_secs(2), ..server.options() }, range(0, 10));
    server.control.stop();
    let reason = until_lost(&link);
    assert!(reason.contains("stopping"), "{reason}");
    let start = Instant::now();
    let gave_up = heard(&link);
    assert!(matches!(&gave_up, FromSender::GaveUp(reason) if reason.contains("within 2 s")), "{gave_up:?}");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(link.events().recv_timeout(DEADLINE).is_err(), "nothing follows");
}

/// What a listed receiver hears when its sender ends, and another one with the same key is there.
fn heard_of_a_successor(offers: SessionInfo) -> FromSender {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (_, link) = listed(&server.options(), range(0, 10));
    let address = server.control.local_addr();
    server.control.stop();
    until_lost(&link);
    let _server = Server::start(state.path(), address, offers);
    heard(&link)
}

#[test]
fn a_sender_that_comes_back_with_another_pack_is_given_up() {
    let gave_up = heard_of_a_successor(session(2));
    assert!(matches!(&gave_up, FromSender::Changed(reason) if reason.contains("another pack")), "{gave_up:?}");
}

#[test]
fn a_sender_that_comes_back_without_the_image_is_given_up() {
    let mut others = session(2);
    others.images.iter_mut().for_each(|image| image.name.insert_str(0, "other-"));
    let gave_up = heard_of_a_successor(others);
    assert!(matches!(&gave_up, FromSender::Changed(reason) if reason.contains("it serves: other-web, other-db")), "{gave_up:?}");
}

/// Passes connections on to a server, until it is told to cut them or to let everything vanish as a pulled cable does.
struct Proxy {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    unplugged: Arc<AtomicBool>,
}

impl Proxy {
    fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (open, unplugged) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, silent) = (open.clone(), unplugged.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
                kept.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let directions = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
                for (from, to) in directions {
                    let silent = silent.clone();
                    std::thread::spawn(move || pass_on(from, to, &silent));
                }
            }
        });
        Proxy { address, open, unplugged }
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            // Either end may have closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, silent: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if !silent.load(Ordering::Relaxed) && to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    if !silent.load(Ordering::Relaxed) {
        let _ = to.shutdown(Shutdown::Write);
    }
}

#[test]
fn a_pulled_cable_is_noticed_by_both_ends_in_ten_seconds() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let proxy = Proxy::to(server.control.local_addr());
    let give_up_after = Duration::from_secs(1);
    let (_, link) = listed(&ConnectOptions { server: proxy.address.into(), give_up_after, ..server.options() }, range(0, 10));
    assert!(matches!(server.next(), ControlEvent::Joined { .. }));
    let start = Instant::now();
    proxy.unplugged.store(true, Ordering::Relaxed);
    until_lost(&link);
    assert!(matches!(server.next(), ControlEvent::Left { outcome: Outcome::Lost(_), .. }));
    // 9 s and what a busy machine adds.
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert!(matches!(heard(&link), FromSender::GaveUp(_)));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn a_receiver_that_comes_back_keeps_its_place_and_one_of_the_same_name_has_its_own() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (_, namesake) = listed(&server.options(), range(0, 10));
    assert!(matches!(server.next(), ControlEvent::Joined { .. }));

    let proxy = Proxy::to(server.control.local_addr());
    let (_, link) = listed(&ConnectOptions { server: proxy.address.into(), ..server.options() }, range(0, 10));
    let ControlEvent::Joined { receiver, .. } = server.next() else { panic!() };
    for _ in 0..3 {
        proxy.cut();
        assert!(matches!(server.next(), ControlEvent::Left { receiver: left, outcome: Outcome::Lost(_) } if left == receiver));
        until(&link, &FromSender::NeedReady);
        link.send(ready(vec![range(0, 5)]));
        until(&link, &FromSender::Listed);
        assert!(matches!(server.next(), ControlEvent::Joined { receiver: back, .. } if back == receiver));
    }
    let rows = server.control.roster().receivers;
    assert_eq!(rows.iter().map(|row| row.attendances).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(rows.iter().filter(|row| row.state == ReceiverState::Listed).count(), 2);
    drop(namesake);
}

#[test]
fn a_completion_is_counted_once_though_its_acknowledgement_was_lost() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let proxy = Proxy::to(server.control.local_addr());
    let (_, link) = listed(&ConnectOptions { server: proxy.address.into(), ..server.options() }, range(0, 10));
    assert!(matches!(server.next(), ControlEvent::Joined { .. }));
    // The network fails at some moment around the acknowledgement; whatever the moment, the outcome is the same.
    link.send(ToSender::Complete { image_bytes: 1, duration_ms: 1 });
    assert!(matches!(server.next(), ControlEvent::Left { outcome: Outcome::Completed, .. }));
    proxy.cut();
    loop {
        match heard(&link) {
            FromSender::Acknowledged => break,
            FromSender::NeedReady => link.send(ready(Vec::new())),
            FromSender::Lost(_) | FromSender::Listed | FromSender::Pace(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(server.events.is_empty(), "the engine hears of it once");
    assert_eq!(server.control.roster().receivers.len(), 1);
}

#[test]
fn a_link_that_is_dropped_while_its_sender_is_away_ends_at_once() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (_, link) = listed(&server.options(), range(0, 10));
    server.control.stop();
    until_lost(&link);
    let start = Instant::now();
    drop(link);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
