//! Custom resources of Istio and of the Gateway API, as far as Culvert reads them.
