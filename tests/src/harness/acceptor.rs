//! The side of a proxy that takes connections.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

/// Takes connections, each in a thread of its own; all of them end with it.
pub struct Acceptor {
    address: SocketAddr,
    listener: Option<TcpListener>,
    shared: Arc<Shared>,
}

impl Acceptor {
    /// Listens on a free port of this machine.
    ///
    /// # Panics
    /// If there is none.
    pub fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        Self { address, listener: Some(listener), shared: Arc::default() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands each connection to `serve`, and closes it afterwards. To be called once.
    pub fn start(&mut self, serve: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static) {
        let Some(listener) = self.listener.take() else { return };
        let (shared, serve) = (Arc::clone(&self.shared), Arc::new(serve));
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if shared.ends.load(Ordering::Relaxed) {
                    break;
                }
                if let Ok(known) = connection.try_clone() {
                    shared.connections.lock().unwrap().push(known);
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    // A connection that breaks is what proxies are for here.
                    drop(serve(&connection));
                    drop(connection.shutdown(Shutdown::Both));
                });
            }
        });
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // Wakes the listener, and ends whoever reads.
        drop(TcpStream::connect(self.address));
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}
