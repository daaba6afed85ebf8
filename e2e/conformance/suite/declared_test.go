package conformance

import (
	"flag"
	"slices"
	"testing"

	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// TestDeclared names every test of a mesh, and fails when one would vanish: the suite passes over a test of which it was not
// told a feature, among them features of gateways that tests of a mesh want as well.
func TestDeclared(t *testing.T) {
	declared := suite.ParseSupportedFeatures(flag.Lookup("supported-features").Value.String())
	for feature := range features.MeshExtendedFeatures {
		if !declared.Has(feature.Name) {
			t.Errorf("the feature %s is not declared", feature.Name)
		}
	}
	for _, test := range tests.ConformanceTests {
		if !slices.Contains(test.Features, features.SupportMesh) {
			continue
		}
		t.Logf("mesh test %s", test.ShortName)
		for _, feature := range test.Features {
			if !declared.Has(feature) {
				t.Errorf("%s would be passed over: the feature %s is not declared", test.ShortName, feature)
			}
		}
	}
}
