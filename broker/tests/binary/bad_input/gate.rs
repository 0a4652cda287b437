//! A door between a broker and its store, to be shut from outside.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use faults::Port;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Open,
    /// Connections are refused, and those that were there are cut.
    Shut,
    /// Connections are taken, and nothing moves on any.
    Stuck,
}

struct Shared {
    door: Mutex<Door>,
    changed: Condvar,
    /// Both ends of what was connected since the door was opened.
    connected: Mutex<Vec<TcpStream>>,
}

/// Forwards its port to another one while its door is open. It begins shut.
pub struct Gate {
    port: Port,
    /// `HOST:PORT`.
    target: String,
    shared: Arc<Shared>,
}

impl Gate {
    /// `target` is an endpoint, `http://HOST:PORT`.
    pub fn before(target: &str) -> Gate {
        let target = target.strip_prefix("http://").unwrap().to_owned();
        let shared =
            Shared { door: Mutex::new(Door::Shut), changed: Condvar::new(), connected: Mutex::default() };
        Gate { port: Port::reserve(), target, shared: Arc::new(shared) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn turn(&self, to: Door) {
        let before = std::mem::replace(&mut *self.shared.door.lock().unwrap(), to);
        self.shared.changed.notify_all();
        match (before, to) {
            (Door::Shut, Door::Open | Door::Stuck) => self.listen(),
            (Door::Open | Door::Stuck, Door::Shut) => {
                for stream in self.shared.connected.lock().unwrap().drain(..) {
                    let _ = stream.shutdown(Shutdown::Both);
                }
                // Wakes the listener, which then goes.
                while TcpStream::connect(("127.0.0.1", self.port.number())).is_ok() {
                    std::thread::yield_now();
                }
            }
            _ => {}
        }
    }

    fn listen(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port.number())).unwrap();
        let (shared, target) = (self.shared.clone(), self.target.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if *shared.door.lock().unwrap() == Door::Shut {
                    return;
                }
                let Ok(far) = TcpStream::connect(&target) else { continue };
                let clones = [near.try_clone().unwrap(), far.try_clone().unwrap()];
                shared.connected.lock().unwrap().extend(clones);
                for (from, to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    let shared = shared.clone();
                    std::thread::spawn(move || shared.pump(from, to));
                }
            }
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.turn(Door::Shut);
    }
}

impl Shared {
    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 64 << 10];
        while let Ok(bytes @ 1..) = from.read(&mut buffer) {
            let door = self.door.lock().unwrap();
            drop(self.changed.wait_while(door, |door| *door == Door::Stuck).unwrap());
            if to.write_all(&buffer[..bytes]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
