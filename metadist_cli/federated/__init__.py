"""A federated round: local training, drift corrections, personalization, aggregation."""
