"""A WhatSMS that runs offline: a seeded world, and a sender of its signed webhooks."""
