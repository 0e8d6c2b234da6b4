//! The operator's pages: what they show, what they change, and to whom.

use super::*;
use crate::schedule::Order;
use serde_json::{Value, json};

impl Bench {
    fn token(&self) -> String {
        OperatorToken::load_from(self.state.path()).unwrap().authorization()
    }

    /// One request over HTTP/1.1 on a connection of its own, with this header `Authorization`; the status code and the body.
    async fn ask(&self, request: &str, authorization: Option<&str>, body: &str) -> (u16, String) {
        let mut stream = self.tls("http/1.1").await;
        let authorization = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!("{request} HTTP/1.1\r\nHost: discus\r\nConnection: close\r\nContent-Length: {length}\r\n{authorization}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path}"), Some(&self.token()), "").await
    }

    async fn change(&self, settings: Value) -> (u16, Value) {
        let (code, body) = self.ask("PATCH /settings", Some(&self.token()), &settings.to_string()).await;
        (code, serde_json::from_str(&body).unwrap())
    }
}

#[tokio::test]
async fn the_operator_sees_the_list_on_the_same_port() {
    let bench = serve(Limits::default());
    let mut calls = bench.calls().await;
    let request = v1::EnrolRequest { group: "rack \"1\"".to_owned(), ..enrol_request("web") };
    let receiver_id = calls.enrol(request).await.unwrap().into_inner().receiver_id;
    let mut client = Client { calls, receiver_id };
    let (to_server, mut from_server) = client.attend().await;
    let want = vec![range(0, 600).into()];
    let ready = v1::Ready { receiver_id, want, more: false, restore_bytes_per_second: 500_000_000, unicast: true };
    to_server.send(message(receiver_message::Message::Ready(ready))).await.unwrap();
    assert!(matches!(said(&mut from_server).await, sender_message::Message::Listed(_)));
    assert!(bench.server.director().direct(ReceiverId(receiver_id), Order::Listen(vec![StreamId(0)])));
    let report = v1::Report { completed: vec![range(0, 60).into()], packets_sent: 200, packets_seen: 150, ..v1::Report::default() };
    to_server.send(message(receiver_message::Message::Report(report))).await.unwrap();
    bench.expect(|event| matches!(event, ControlEvent::Reported { .. })).await;

    let (status_code, body) = bench.get("/status").await;
    assert!(status_code == 200, "{body}");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    let receiver = &status["receivers"][0];
    assert_eq!(receiver["name"], "host");
    assert_eq!(receiver["image"], "web");
    assert_eq!(receiver["state"], "listed");
    assert_eq!(receiver["chunks_wanted"], 600);
    assert_eq!(receiver["chunks_remaining"], 540);
    assert_eq!(receiver["loss"], 0.25);
    assert_eq!(receiver["group"], "rack \"1\"");
    assert_eq!(receiver["unicast"], true);
    assert_eq!(receiver["streams"], json!([0]));
    assert_eq!(receiver["restore_bytes_per_second"], 500_000_000);
    assert_eq!(status["settings"]["rate_cap_bits_per_second"], 1_000_000_000);
    assert_eq!(status["images"][1]["name"], "db");

    let (status_code, body) = bench.get("/metrics").await;
    assert!(status_code == 200, "{body}");
    assert!(body.contains("discus_receivers{state=\"listed\"} 1\n"), "{body}");
    assert!(body.contains("discus_chunks_remaining 540\n"), "{body}");
    assert!(body.contains("discus_image_receivers{image=\"web\",group=\"rack \\\"1\\\"\"} 1\n"), "{body}");
    assert!(body.contains("discus_unicast_receivers 1\n"), "{body}");
    bench.serves().await;
}

#[tokio::test]
async fn changed_settings_reach_the_engine_and_stay() {
    let bench = serve(Limits::default());
    let (code, settings) = bench.change(json!({ "rate_cap_bits_per_second": 5_000_000_000u64 })).await;
    assert_eq!((code, &settings["rate_cap_bits_per_second"]), (200, &5_000_000_000u64.into()));
    let (code, settings) = bench.change(json!({ "priorities": { "images": { "db": 10 }, "groups": { "rack-1": -3 } } })).await;
    assert_eq!(code, 200);
    assert_eq!(
        settings,
        json!({ "rate_cap_bits_per_second": 5_000_000_000u64, "priorities": { "images": { "db": 10 }, "groups": { "rack-1": -3 } } })
    );
    let (code, body) = bench.get("/settings").await;
    assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()), (200, settings));
    let mut heard = Vec::new();
    for _ in 0..2 {
        let ControlEvent::Settings(settings) = bench.expect(|_| true).await else { panic!("nothing else happened") };
        heard.push((settings.rate_cap_bits_per_second, settings.priorities.of("db", ""), settings.priorities.of("db", "rack-1")));
    }
    assert_eq!(heard, [(5_000_000_000, 0, 0), (5_000_000_000, 10, -3)]);
    // What changes nothing is no event.
    assert_eq!(bench.change(json!({ "priorities": { "images": { "db": 10 } } })).await.0, 200);
    assert!(bench.events.is_empty());
    assert_eq!(bench.server.settings().priorities.of("db", ""), 10);
    bench.serves().await;
}

#[tokio::test]
async fn what_cannot_be_set_is_refused_with_its_reason_and_changes_nothing() {
    let bench = serve(Limits::default());
    let token = bench.token();
    let refusals = [
        ("{", 400, "EOF"),
        ("", 400, "EOF"),
        (r#"{"rate":"5G"}"#, 400, "unknown field `rate`"),
        (r#"{"rate_cap_bits_per_second":"5G"}"#, 400, "invalid type"),
        (r#"{"rate_cap_bits_per_second":-1}"#, 400, "-1"),
        (r#"{"rate_cap_bits_per_second":1}"#, 422, "100k"),
        (r#"{"priorities":{"images":{"mail":1}}}"#, 422, "serves web, db"),
        (r#"{"priorities":{"images":{"db":1000}}}"#, 422, "-100 to 100"),
        (r#"{"rate_cap_bits_per_second":5000000,"priorities":{"images":{"db":1000}}}"#, 422, "-100 to 100"),
    ];
    for (body, expected, why) in refusals {
        let (code, answer) = bench.ask("PATCH /settings", Some(&token), body).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(code, expected, "{body}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(why), "{body}: {answer}");
    }
    // One byte too much, so that the server has read all of it when it refuses.
    let (code, _) = bench.ask("PATCH /settings", Some(&token), &" ".repeat(256 * 1024 + 1)).await;
    assert_eq!(code, 413);
    assert!(bench.events.is_empty());
    assert_eq!(bench.server.settings().rate_cap_bits_per_second, 1_000_000_000);
    bench.serves().await;
}

#[tokio::test]
async fn without_the_token_nothing_is_shown_or_changed() {
    let bench = serve(Limits::default());
    let wrong = format!("Bearer {}", "0".repeat(64));
    for authorization in [None, Some("Bearer"), Some(wrong.as_str()), Some("Basic ZGlzY3VzOmRpc2N1cw==")] {
        for request in ["GET /status", "GET /metrics", "GET /settings", "PATCH /settings", "DELETE /receivers/1"] {
            let (code, answer) = bench.ask(request, authorization, r#"{"rate_cap_bits_per_second":5000000}"#).await;
            assert_eq!(code, 401, "{request} {authorization:?}");
            assert!(answer.contains("operator-token"), "{answer}");
        }
    }
    assert!(bench.events.is_empty());
    assert_eq!(bench.server.settings().rate_cap_bits_per_second, 1_000_000_000);
    bench.serves().await;
}

#[tokio::test]
async fn a_public_status_is_for_reading_only() {
    let bench = serve_with(|config| config.access.public_status = true);
    for page in ["GET /status", "GET /metrics", "GET /settings"] {
        assert_eq!(bench.ask(page, None, "").await.0, 200, "{page}");
    }
    for change in ["PATCH /settings", "DELETE /receivers/1"] {
        assert_eq!(bench.ask(change, None, "{}").await.0, 401, "{change}");
    }
    assert_eq!(bench.ask("PATCH /settings", Some(&bench.token()), "{}").await.0, 200);
    bench.serves().await;
}

#[tokio::test]
async fn a_receiver_is_dismissed_with_the_operators_reason() {
    let bench = serve(Limits::default());
    let token = bench.token();
    let mut client = bench.enrolled("web").await;
    let delete = format!("DELETE /receivers/{}", client.receiver_id);
    assert_eq!(bench.ask(&delete, Some(&token), "").await.0, 404, "it is not listed yet");
    let (to_server, mut from_server) = client.attend().await;
    to_server.send(client.ready(&[range(0, 600)])).await.unwrap();
    assert!(matches!(said(&mut from_server).await, sender_message::Message::Listed(_)));
    assert_eq!(bench.ask(&delete, Some(&token), r#"{"why":1}"#).await.0, 400);
    assert_eq!(bench.ask(&delete, Some(&token), r#"{"reason":"wrong\u001b rack"}"#).await.0, 202);
    assert_eq!(dismissal(&mut from_server).await, "wrong  rack");
    bench
        .expect(|event| matches!(event, ControlEvent::Left { outcome: Outcome::Failed(reason), .. } if reason.contains("wrong  rack")))
        .await;
    for unknown in ["DELETE /receivers/99", &delete] {
        assert_eq!(bench.ask(unknown, Some(&token), "").await.0, 404, "{unknown}");
    }
    assert_eq!(bench.ask("DELETE /receivers/all", Some(&token), "").await.0, 400);
    bench.serves().await;
}
