//! The proxy does what the crate's page says, in front of a server that keeps what it is given.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

use super::http::Message;
use super::*;

type Objects = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Creates what is not there, and gives what is.
fn server() -> (String, Objects) {
    let objects = Objects::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let kept = objects.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let Ok(Some(request)) = Message::request(&mut BufReader::new(&stream)) else { continue };
            let (method, path) = request.method_and_target();
            let mut objects = kept.lock();
            let (status, body) = match (method, objects.get(path)) {
                ("PUT", None) => {
                    objects.insert(path.to_owned(), request.body.clone());
                    ("200 OK", Vec::new())
                }
                ("PUT", Some(_)) => ("412 Precondition Failed", Vec::new()),
                (_, Some(body)) => ("200 OK", body.clone()),
                (_, None) => ("404 Not Found", Vec::new()),
            };
            let answer = Message { start: format!("HTTP/1.1 {status}"), headers: Vec::new(), body };
            let _ = answer.write(&mut &stream, Some(answer.body.len()), true);
        }
    });
    (endpoint, objects)
}

/// The answer's status and body, or `None` where the connection broke before its end.
fn ask(proxy: &Proxy, method: &str, key: &str, body: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    let request = Message {
        start: format!("{method} /bucket/cluster/{key} HTTP/1.1"),
        headers: Vec::new(),
        body: body.as_bytes().to_vec(),
    };
    request.write(&mut &stream, Some(body.len()), false).unwrap();
    let answer = Message::response(&mut BufReader::new(&stream), method).ok()?;
    Some((answer.status(), String::from_utf8(answer.body).unwrap()))
}

fn put(proxy: &Proxy, key: &str) -> Option<u16> {
    ask(proxy, "PUT", key, "0123456789").map(|(status, _)| status)
}

fn failing(operation: Operation, fault: Fault) -> (Proxy, Objects) {
    let (endpoint, objects) = server();
    let proxy = Proxy::before(&endpoint, 1, 1);
    proxy.add(Rule::new(operation, fault).under("a/").times(1));
    (proxy, objects)
}

#[test]
fn what_no_rule_strikes_goes_through() {
    let (proxy, objects) = failing(Operation::Put, Fault::Refuse);
    assert_eq!(put(&proxy, "b/x"), Some(200));
    assert_eq!(ask(&proxy, "GET", "b/x", ""), Some((200, "0123456789".to_owned())));
    assert_eq!(ask(&proxy, "GET", "b/y", "").unwrap().0, 404);
    assert_eq!(objects.lock().len(), 1);
    assert_eq!((proxy.counts().puts, proxy.counts().gets), (1, 2));
    assert!(proxy.log().iter().all(|seen| seen.fault.is_none()));
    assert_eq!(proxy.log()[0].key.as_ref(), "b/x");
}

#[test]
fn refusals_have_their_status_and_change_nothing() {
    for (fault, status) in [
        (Fault::Refuse, Some(503)),
        (Fault::Fail, Some(500)),
        (Fault::Expire, Some(400)),
        (Fault::Forbid, Some(403)),
        (Fault::Conflict, Some(409)),
        (Fault::Cut, None),
    ] {
        let (proxy, objects) = failing(Operation::Put, fault);
        assert_eq!(put(&proxy, "a/x"), status, "{fault:?}");
        assert!(objects.lock().is_empty(), "{fault:?}");
        assert_eq!(put(&proxy, "a/x"), Some(200), "{fault:?}");
    }
}

#[test]
fn outcomes_are_hidden_as_asked() {
    let (proxy, objects) = failing(Operation::Put, Fault::LoseReply);
    assert_eq!(put(&proxy, "a/x"), None);
    assert_eq!(objects.lock().len(), 1);
    let (proxy, objects) = failing(Operation::Put, Fault::HiddenRetry);
    assert_eq!(put(&proxy, "a/x"), Some(412));
    assert_eq!(objects.lock().len(), 1);
    let (proxy, objects) = failing(Operation::Put, Fault::Late);
    assert_eq!(put(&proxy, "a/x"), None);
    assert!(objects.lock().is_empty());
    assert_eq!((proxy.late(), proxy.land_late(), proxy.late()), (1, 1, 0));
    assert_eq!(objects.lock().len(), 1);
    let (proxy, _) = failing(Operation::Put, Fault::Duplicate);
    assert_eq!(put(&proxy, "a/x"), Some(200));
    assert_eq!((proxy.late(), proxy.land_late()), (1, 0));
}

#[test]
fn bodies_are_damaged_as_asked() {
    for (fault, answer) in [
        (Fault::Truncate(4), Some((200, "0123".to_owned()))),
        (Fault::CutBody(4), None),
        (Fault::FlipBit(0), Some((200, "1123456789".to_owned()))),
        (Fault::Hide, None),
    ] {
        let (proxy, _) = failing(Operation::Get, fault);
        assert_eq!(put(&proxy, "a/x"), Some(200));
        let found = ask(&proxy, "GET", "a/x", "");
        match fault {
            Fault::Hide => assert_eq!(found.unwrap().0, 404),
            _ => assert_eq!(found, answer, "{fault:?}"),
        }
        assert_eq!(ask(&proxy, "GET", "a/x", ""), Some((200, "0123456789".to_owned())), "{fault:?}");
    }
}

#[test]
fn listings_are_known_by_their_prefix() {
    let (proxy, _) = failing(Operation::List, Fault::Hide);
    let listing = |prefix: &str| {
        let target = format!("/bucket?list-type=2&prefix=cluster%2F{prefix}%2F");
        let stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        let start = format!("GET {target} HTTP/1.1");
        let request = Message { start, headers: Vec::new(), body: Vec::new() };
        request.write(&mut &stream, None, true).unwrap();
        let answer = Message::response(&mut BufReader::new(&stream), "GET").unwrap();
        (answer.status(), String::from_utf8(answer.body).unwrap())
    };
    // The test's server knows no listings.
    assert_eq!(listing("b%2Fx").0, 404);
    let (status, body) = listing("a%2Fx");
    assert!(status == 200 && body.contains("<KeyCount>0</KeyCount>"), "{status} {body}");
    let keys: Vec<_> = proxy.log().into_iter().map(|seen| seen.key.to_string()).collect();
    assert_eq!(keys, ["b/x", "a/x"]);
}

#[test]
fn what_hangs_is_let_go_and_an_outage_ends() {
    let (proxy, objects) = failing(Operation::Put, Fault::Hang);
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| put(&proxy, "a/x"));
        while proxy.counts().puts == 0 {
            std::thread::yield_now();
        }
        proxy.heal();
        assert_eq!(hanging.join().unwrap(), None);
    });
    proxy.set_outage(Fault::Refuse);
    assert_eq!(put(&proxy, "b/x"), Some(503));
    assert!(objects.lock().is_empty());
    proxy.heal();
    assert_eq!(put(&proxy, "b/x"), Some(200));
}

#[test]
fn an_expired_key_is_refused_and_others_are_not() {
    let (endpoint, _) = server();
    let proxy = Proxy::before(&endpoint, 1, 1);
    proxy.expire_key("OLD");
    for (key, status) in [("OLD", 400), ("OLDER", 404), ("NEW", 404)] {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        let authorization = format!("AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/s3/aws4_request");
        let request = Message {
            start: "GET /bucket/cluster/a HTTP/1.1".to_owned(),
            headers: vec![("authorization".to_owned(), authorization)],
            body: Vec::new(),
        };
        request.write(&mut &stream, None, true).unwrap();
        let answer = Message::response(&mut BufReader::new(&stream), "GET").unwrap();
        assert_eq!(answer.status(), status, "{key}");
    }
    assert_eq!(proxy.struck(), 1);
}

/// A signature holds for the host that the client asked.
#[test]
fn what_was_signed_reaches_the_server_as_it_was() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::before(&format!("http://{}", listener.local_addr().unwrap()), 1, 1);
    let signed = [("Host", "127.0.0.1:4711"), ("Authorization", "AWS4-HMAC-SHA256 x"), ("x-amz-date", "now")];
    let headers = signed.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let start = "PUT /bucket/cluster/a%2Fb?x=y%20z HTTP/1.1".to_owned();
    let request = Message { start, headers: headers.to_vec(), body: b"body".to_vec() };
    let stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    request.write(&mut &stream, Some(request.body.len()), false).unwrap();
    let (server, _) = listener.accept().unwrap();
    let arrived = Message::request(&mut BufReader::new(&server)).unwrap().unwrap();
    assert_eq!((&arrived.start, &arrived.body), (&request.start, &request.body));
    for (name, value) in signed {
        let there: Vec<_> = arrived.headers.iter().filter(|(there, _)| there == name).collect();
        assert_eq!(there, [&(name.to_owned(), value.to_owned())]);
    }
}

#[test]
fn the_same_seed_strikes_the_same_requests() {
    let struck = |seed| {
        let (endpoint, _) = server();
        let proxy = Proxy::before(&endpoint, 1, seed);
        proxy.add(Rule::new(Operation::Get, Fault::Refuse).with_probability(0.3));
        (0..60).map(|_| ask(&proxy, "GET", "a/x", "").unwrap().0).collect::<Vec<_>>()
    };
    let one = struck(7);
    assert_eq!(one, struck(7));
    assert_ne!(one, struck(8));
    let refused = one.iter().filter(|status| **status == 503).count();
    assert!((5..35).contains(&refused), "{refused} of 60");
}

#[test]
fn a_proxy_that_is_gone_takes_no_connection() {
    let (endpoint, _) = server();
    let proxy = Proxy::before(&endpoint, 1, 1);
    let port = proxy.port;
    let mut open = TcpStream::connect(("127.0.0.1", port)).unwrap();
    drop(proxy);
    assert!(open.read(&mut [0]).is_ok_and(|read| read == 0) || open.take_error().is_ok());
    while TcpStream::connect(("127.0.0.1", port)).is_ok() {
        std::thread::yield_now();
    }
}
