//! Connections that never come to a call: garbage, silence, too many, too old.

use super::*;

/// Whether the server closes a connection within the deadline, whatever it says before.
async fn is_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut buffer = [0; 4096];
    let read_all = async { while matches!(stream.read(&mut buffer).await, Ok(bytes) if bytes > 0) {} };
    timeout(DEADLINE, read_all).await.is_ok()
}

#[tokio::test]
async fn garbage_instead_of_tls_is_cut_off() {
    let bench = serve(Limits::default());
    let mut stream = TcpStream::connect(bench.server.local_addr()).await.unwrap();
    stream.write_all(&[0x5A; 10_000]).await.unwrap();
    assert!(is_closed(&mut stream).await);
    bench.serves().await;
}

#[tokio::test]
async fn garbage_inside_tls_is_cut_off() {
    let bench = serve(Limits::default());
    for alpn in ["h2", "http/1.1"] {
        let mut stream = bench.tls(alpn).await;
        // The server may close before all of it is written.
        let _ = stream.write_all(&[0xA5; 100_000]).await;
        assert!(is_closed(&mut stream).await, "{alpn}");
    }
    bench.serves().await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_before_and_after_tls() {
    let short = Duration::from_millis(100);
    let bench = serve(Limits { handshake_timeout: short, idle_timeout: short, ..Limits::default() });
    let mut silent = TcpStream::connect(bench.server.local_addr()).await.unwrap();
    assert!(is_closed(&mut silent).await);
    for alpn in ["h2", "http/1.1"] {
        let mut silent = bench.tls(alpn).await;
        assert!(is_closed(&mut silent).await, "{alpn}");
    }
    bench.serves().await;
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let limits = Limits { connections_per_address_max: 3, ..Limits::default() };
    let bench = serve(limits);
    let address = bench.server.local_addr();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let mut refused = TcpStream::connect(address).await.unwrap();
    assert!(is_closed(&mut refused).await);
    // Another address of the loopback network has room.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let mut other = socket.connect(address).await.unwrap();
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(300), other.read(&mut byte)).await.is_err(), "it stays open");
    drop(held);
    bench.wait_for_room().await;
    bench.serves().await;
}

impl Bench {
    /// The server notices closed connections a moment later.
    async fn wait_for_room(&self) {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            let mut probe = TcpStream::connect(self.server.local_addr()).await.unwrap();
            if timeout(Duration::from_millis(200), probe.read(&mut [0])).await.is_err() {
                return;
            }
        }
        panic!("no room");
    }
}

#[tokio::test]
async fn older_tls_is_refused() {
    let bench = serve(Limits::default());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
    // It is refused before a certificate is shown.
    let config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let stream = TcpStream::connect(bench.server.local_addr()).await.unwrap();
    let outcome = TlsConnector::from(Arc::new(config)).connect("discus".try_into().unwrap(), stream).await;
    let error = outcome.err().and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>().cloned());
    assert_eq!(error, Some(rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion)));
    bench.serves().await;
}
