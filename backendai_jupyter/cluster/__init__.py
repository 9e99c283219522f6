"""The stores that managers and agents share: desired state, liveness, wake-up hints."""
