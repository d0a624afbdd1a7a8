"""How fast the store is, against floors that anybody can see are floors: ``python -m benchmarks``.

Standard library only. To add a row, add a ``Contender`` (a name, and a function that measures one round)
to a ``race`` in one of the groups: ``reads.py``, ``writes.py``, ``startup.py``, ``threads.py``, ``aio.py``,
``peers.py``. Where it should meet a bar, name one of ``bars.py``.
"""
