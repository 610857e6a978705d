"""Advantage estimators of the registry: a whole rollout batch of turns in, advantages of every action token out.

Legend: B episodes, K turns, T predicting positions. Every estimator takes a `TurnBatch` and keyword options, and answers `TurnAdvantages`. What
all of them share (KL, whitening, length correction, bounds of process rewards) is in `shared`, and what a PRM's scores pay in
`core.process_rewards`; the modules here say how rewards become advantages.
"""
