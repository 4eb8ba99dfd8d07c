"""Pure rules: no await, no clock, no socket, no SQL, no logging."""
