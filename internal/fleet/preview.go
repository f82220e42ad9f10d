package fleet

import "github.com/shopset/shopset/api/v1alpha1"

// Preview gives the ShopSets that a fleet ends with when all that it wants is done: those that there shall be, by name, and
// those that go. Nothing that it is given is changed. Whether the spec can be used at all is for Decide to say.
func Preview(fleet *v1alpha1.Fleet, shopSets []*v1alpha1.ShopSet) (after, leaving []*v1alpha1.ShopSet) {
	members := findMembers(fleet, shopSets)
	for _, member := range members.wanted {
		if member.shopSet == nil {
			after = append(after, newShopSet(fleet, member))
			continue
		}
		ss := member.shopSet.DeepCopy()
		setMetadata(fleet, member, ss)
		if wanted := desiredSpec(fleet, member); !sameSpec(wanted, &ss.Spec) {
			wanted.Traffic = ss.Spec.Traffic
			ss.Spec = *wanted
		}
		setTraffic(ss, member, false)
		after = append(after, ss)
	}
	for _, member := range members.leaving {
		leaving = append(leaving, member.shopSet)
	}
	return after, leaving
}
