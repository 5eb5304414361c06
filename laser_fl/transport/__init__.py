"""Messages of a run as Flower records, and memory shared by the processes of one host.

No other part of the core imports Flower.
"""
