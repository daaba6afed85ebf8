//! Routes: exact paths with a method and a sentence of help.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, StatusCode};

use super::message::{Reply, Request};

/// Answers requests of one path.
pub type Handler = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// Paths and their handlers. Clones share the handlers.
#[derive(Clone, Default)]
pub struct Router {
    routes: BTreeMap<String, Vec<Route>>,
}

#[derive(Clone)]
struct Route {
    method: Method,
    help: &'static str,
    handler: Handler,
}

impl Router {
    /// No routes; `/` lists those that are added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a path that is read.
    #[must_use]
    pub fn get<F, Fut>(self, path: &str, help: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        self.route(Method::GET, path, help, handler)
    }

    /// Adds a path that changes something.
    #[must_use]
    pub fn post<F, Fut>(self, path: &str, help: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        self.route(Method::POST, path, help, handler)
    }

    /// Adds a route; one that is there already is replaced.
    #[must_use]
    pub fn route<F, Fut>(mut self, method: Method, path: &str, help: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        let routes = self.routes.entry(path.to_owned()).or_default();
        routes.retain(|r| r.method != method);
        routes.push(Route { method, help, handler });
        self
    }

    /// Adds all routes of another router.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        for (path, routes) in other.routes {
            let own = self.routes.entry(path).or_default();
            own.retain(|r| routes.iter().all(|o| o.method != r.method));
            own.extend(routes);
        }
        self
    }

    pub(crate) async fn answer(&self, request: Request) -> Reply {
        let Some(routes) = self.routes.get(&request.path) else {
            return if request.path == "/" { Reply::text(self.help()) } else { self.not_found(&request.path) };
        };
        // HEAD is GET without the body, which the server leaves out.
        let wanted = if request.method == Method::HEAD { &Method::GET } else { &request.method };
        let Some(route) = routes.iter().find(|r| r.method == *wanted) else {
            let allowed: Vec<_> = routes.iter().map(|r| r.method.as_str()).collect();
            let text = format!("{} does not answer {}; use {}", request.path, request.method, allowed.join(" or "));
            return Reply::error(StatusCode::METHOD_NOT_ALLOWED, text);
        };
        // A page in a browser can post to localhost, but not without telling its origin (Fetch standard, "Origin").
        if route.method != Method::GET && request.headers.contains_key(http::header::ORIGIN) {
            return Reply::error(StatusCode::FORBIDDEN, "requests from web pages are refused; use curl or the CLI");
        }
        (route.handler)(request).await
    }

    fn not_found(&self, path: &str) -> Reply {
        Reply::error(StatusCode::NOT_FOUND, format!("{path} is not here; this port has:\n{}", self.help()))
    }

    fn help(&self) -> String {
        let mut text = String::new();
        for (path, routes) in &self.routes {
            for route in routes {
                text.push_str(&format!("{:4} {path}  {}\n", route.method.as_str(), route.help));
            }
        }
        text
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.keys()).finish()
    }
}
