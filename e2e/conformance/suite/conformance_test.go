// Package conformance runs the Gateway API's own conformance suite, as it is published, against the cluster of KUBECONFIG.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestConformance is configured by the suite's flags only (hack/conformance.sh).
func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
