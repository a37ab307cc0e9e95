"""Find a race by exploring schedules: two withdrawals from one account.

    python examples/find_race.py
"""

from runtime import Mutex, go
from runtime.testing import ExploreError, explore


class Account:
    def __init__(self, balance):
        self.balance = balance
        self.mutex = Mutex()

    def withdraw(self, amount):
        with self.mutex:
            enough = self.balance >= amount
        if enough:  # and then another may withdraw
            with self.mutex:
                self.balance -= amount

    def withdraw_safely(self, amount):
        with self.mutex:
            if self.balance >= amount:
                self.balance -= amount


def check(withdraw):
    """A test of one method: whatever the goroutines do when, nothing may be overdrawn."""

    def two_withdrawals():
        account = Account(100)  # made anew for each schedule
        for g in [go(withdraw, account, 70), go(withdraw, account, 60)]:
            g.join()
        assert account.balance >= 0, f"overdrawn: {account.balance}"

    return explore(two_withdrawals)


def main():
    try:
        check(Account.withdraw)
    except ExploreError as e:
        print(e)
    report = check(Account.withdraw_safely)
    print(f"\nwithdraw_safely: nothing in {report.schedules} schedules")


if __name__ == "__main__":
    main()
